//! Policies: shown, checked, tested, compared and applied.

use std::path::Path;

use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery},
    name::Name,
    policy::{PolicyEffect, PolicyFile, PolicyProblem, PolicyTestResult},
};

use crate::{
    args::{Format, PolicyCommand, PolicySource},
    confirm,
    connection::unexpected,
    folder,
    view::policy as view,
};

use super::Session;

pub(super) fn run(command: PolicyCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show { recommended, dir } => show(recommended, dir.as_deref(), session),
        PolicyCommand::Check { dir } => {
            let files = folder::read(&dir)?;
            let count = files.len();
            check(&files, session)?;
            if session.format() == Format::Table {
                session.console.say(&format!("{count} files, no problems"));
                return Ok(());
            }
            view::problems(&[], session.settings.format, session.console)
        }
        PolicyCommand::Test { dir } => {
            let files = folder::read(&dir)?;
            check(&files, session)?;
            let results = test(&files, session)?;
            view::tests(&results, session.settings.format, session.console)?;
            verdict(&results, session)
        }
        PolicyCommand::Diff(source) => {
            let files = read(&source, session)?;
            check(&files, session)?;
            let (effects, unjudged) = diff(&files, session)?;
            print_effects(&effects, &unjudged, session)
        }
        PolicyCommand::Apply { source, dry_run } => apply(&source, dry_run, session),
    }
}

fn show(recommended: bool, dir: Option<&Path>, session: &mut Session<'_>) -> Result<(), Failure> {
    let (revision, files) = if recommended {
        (None, recommended_files(session)?)
    } else {
        let answer = session.connection.query(AdminQuery::Policy)?;
        let AdminAnswer::Policy { revision, files } = answer else {
            return Err(unexpected());
        };
        (Some(revision), files)
    };
    let Some(dir) = dir else {
        return view::files(revision, &files, session.settings.format, session.console);
    };
    folder::write(dir, &files)?;
    session.console.say(&format!(
        "{} files written into {}",
        files.len(),
        dir.display()
    ));
    Ok(())
}

/// Checked, tested, compared, and only then the policy.
fn apply(source: &PolicySource, dry_run: bool, session: &mut Session<'_>) -> Result<(), Failure> {
    let files = read(source, session)?;
    check(&files, session)?;
    let results = test(&files, session)?;
    if results.iter().any(|result| !result.passed) {
        view::tests(&results, session.settings.format, session.console)?;
    }
    verdict(&results, session)?;
    let (effects, unjudged) = diff(&files, session)?;
    if dry_run {
        print_effects(&effects, &unjudged, session)?;
        session.console.say("Nothing was changed: --dry-run");
        return Ok(());
    }
    let losing = effects
        .iter()
        .filter(|effect| effect.before && !effect.after)
        .count();
    if !effects.is_empty() {
        session
            .console
            .say(view::effects_table(&effects).trim_end());
    }
    say_unjudged(&unjudged, session);
    let change = AdminChange::PolicyApply(files);
    let AdminAnswer::Impact { closes } = session
        .connection
        .query(AdminQuery::Impact(change.clone()))?
    else {
        return Err(unexpected());
    };
    if losing > 0 || closes > 0 || !unjudged.is_empty() {
        let warning = cost(losing, closes);
        confirm::ask(&warning, &session.settings, session.console)?;
    }
    session.change(change)
}

/// What a policy takes away, as far as that is known.
fn cost(losing: usize, closes: u32) -> String {
    let permissions = match losing {
        1 => "takes 1 permission away".to_owned(),
        losing => format!("takes {losing} permissions away"),
    };
    let known = [
        (losing > 0).then_some(permissions),
        (closes > 0).then(|| format!("closes {}", confirm::tunnels(closes))),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    if known.is_empty() {
        "this takes nothing away as far as is known".to_owned()
    } else {
        format!("this {}", known.join(" and "))
    }
}

fn read(source: &PolicySource, session: &mut Session<'_>) -> Result<Vec<PolicyFile>, Failure> {
    match &source.dir {
        Some(dir) => folder::read(dir),
        None => recommended_files(session),
    }
}

fn recommended_files(session: &mut Session<'_>) -> Result<Vec<PolicyFile>, Failure> {
    let AdminAnswer::PolicyFiles(files) =
        session.connection.query(AdminQuery::PolicyRecommended)?
    else {
        return Err(unexpected());
    };
    Ok(files)
}

/// Prints what is wrong with the files and fails when something is.
fn check(files: &[PolicyFile], session: &mut Session<'_>) -> Result<(), Failure> {
    let answer = session
        .connection
        .query(AdminQuery::PolicyCheck(files.to_vec()))?;
    let AdminAnswer::PolicyProblems(problems) = answer else {
        return Err(unexpected());
    };
    if problems.is_empty() {
        return Ok(());
    }
    let problems: &[PolicyProblem] = &problems;
    view::problems(problems, session.settings.format, session.console)?;
    Err(Failure::of(
        Code::Failed,
        "policy",
        format!(
            "{} problem{}",
            problems.len(),
            if problems.len() == 1 { "" } else { "s" }
        ),
        "Mend them, then: cardeactl policy check DIR",
    ))
}

fn test(files: &[PolicyFile], session: &mut Session<'_>) -> Result<Vec<PolicyTestResult>, Failure> {
    let answer = session
        .connection
        .query(AdminQuery::PolicyTest(files.to_vec()))?;
    let AdminAnswer::PolicyTests(results) = answer else {
        return Err(unexpected());
    };
    Ok(results)
}

/// What would change, and for whom that is not known.
fn diff(
    files: &[PolicyFile],
    session: &mut Session<'_>,
) -> Result<(Vec<PolicyEffect>, Vec<Name>), Failure> {
    let answer = session
        .connection
        .query(AdminQuery::PolicyDiff(files.to_vec()))?;
    let AdminAnswer::PolicyEffects { effects, unjudged } = answer else {
        return Err(unexpected());
    };
    Ok((effects, unjudged))
}

/// Says how many tests passed, or fails.
fn verdict(results: &[PolicyTestResult], session: &mut Session<'_>) -> Result<(), Failure> {
    let failed = results.iter().filter(|result| !result.passed).count();
    if failed > 0 {
        return Err(Failure::of(
            Code::Failed,
            "policy",
            format!("{failed} of {} tests failed", results.len()),
            "Nothing was changed",
        ));
    }
    session
        .console
        .say(&format!("{} policy tests passed", results.len()));
    Ok(())
}

fn print_effects(
    effects: &[PolicyEffect],
    unjudged: &[Name],
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    say_unjudged(unjudged, session);
    if effects.is_empty() && session.format() == Format::Table {
        session.console.say(if unjudged.is_empty() {
            "Nobody who is enrolled would gain or lose anything"
        } else {
            "Nobody else would gain or lose anything"
        });
        return Ok(());
    }
    view::effects(effects, session.settings.format, session.console)
}

/// Names the devices of which nobody knows yet what they would gain or lose.
fn say_unjudged(unjudged: &[Name], session: &mut Session<'_>) {
    let (shown, more) = unjudged.split_at(unjudged.len().min(UNJUDGED_SHOWN));
    if shown.is_empty() {
        return;
    }
    let names: Vec<&str> = shown.iter().map(Name::as_str).collect();
    let more = match more.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    session.console.say(&format!(
        "Not known, for these have not reported since the controller started: {}{more}",
        names.join(", ")
    ));
}

/// Devices that are named; the rest are counted.
const UNJUDGED_SHOWN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_of_nothing_is_not_counted() {
        for (losing, closes, said) in [
            (0, 0, "this takes nothing away as far as is known"),
            (1, 0, "this takes 1 permission away"),
            (0, 2, "this closes 2 tunnels"),
            (3, 1, "this takes 3 permissions away and closes 1 tunnel"),
        ] {
            assert_eq!(cost(losing, closes), said);
        }
    }
}
