//! The command line as a contract.

use clap::CommandFactory;

use super::*;

#[test]
fn the_definitions_agree_with_each_other() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_help_with_examples_that_parse() {
    fn walk(command: &clap::Command, path: &str, seen: &mut usize) {
        for verb in command.get_subcommands() {
            let path = format!("{path} {}", verb.get_name());
            if verb.has_subcommands() {
                walk(verb, &path, seen);
                continue;
            }
            assert!(verb.get_about().is_some(), "{path} has no description");
            let help = verb.get_after_help().unwrap_or_default().to_string();
            let examples: Vec<&str> = help
                .lines()
                .filter_map(|line| line.strip_prefix("  "))
                .collect();
            assert!(!examples.is_empty(), "{path} has no examples");
            for example in examples {
                let words = words(example);
                assert!(
                    example.starts_with(&path),
                    "{example} is no example of {path}"
                );
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{example}: {error}");
                }
                *seen += 1;
            }
        }
    }
    let mut seen = 0;
    walk(&Cli::command(), "cardeactl", &mut seen);
    assert!(seen > 50, "{seen} examples");
}

#[test]
fn flags_work_behind_the_verb() {
    let cli = parse("cardeactl app ls -o json --admin unix:/x --yes");
    assert_eq!(cli.global.output, Some(Format::Json));
    assert_eq!(cli.global.admin.as_deref(), Some("unix:/x"));
    assert!(cli.global.yes);
}

#[test]
fn an_app_has_targets_and_defaults() {
    let Command::App(AppCommand::Add(add)) =
        parse("cardeactl app add wiki --target h:80 --target h:53/udp").command
    else {
        panic!("another command");
    };
    assert_eq!(add.site.as_str(), "default");
    assert_eq!(add.targets.len(), 2);
    assert!(!add.allow_host_scoped);
}

#[test]
fn what_is_incomplete_or_wrong_is_usage() {
    for line in [
        "cardeactl",
        "cardeactl app add wiki",
        "cardeactl app add wiki --target nowhere",
        "cardeactl app set wiki",
        "cardeactl app set wiki --label env=prod --no-labels",
        "cardeactl allow alice wiki",
        "cardeactl user set alice",
        "cardeactl invite device",
        "cardeactl invite device --user alice --expires 1",
        "cardeactl invite rm dev_aebagbafaydqqcik",
        "cardeactl policy apply",
        "cardeactl policy apply dir --recommended",
        "cardeactl audit show 0",
        "cardeactl audit tail -n 1001",
        "cardeactl app ls -o xml",
    ] {
        let error = Cli::try_parse_from(words(line)).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn an_error_names_what_is_needed() {
    let error =
        Cli::try_parse_from(["cardeactl", "app", "add", "a b", "--target", "h:80"]).unwrap_err();
    assert!(error.to_string().contains("letters, digits"), "{error}");
}

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(words(line)).unwrap()
}

/// Words as a shell would split an example, without what follows `#`, `|` and `>`.
fn words(line: &str) -> Vec<String> {
    let line = line.split(['#', '|', '>']).next().unwrap();
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
