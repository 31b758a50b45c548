//! Shows that the simulation can fail: switches off one guard after the other in a copy of the tree,
//! builds the simulation with it, and demands that a seed fails.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command that prints is what this is")]

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Seeds within which every mutant must be caught.
const SEEDS: &str = "200";

/// What a world says that does not even begin: no property was looked at.
const SET_UP: &str = "could not be set up";

/// The list of guards.
const LIST: &str = "tests/sim/mutants.toml";

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

/// A guard, and how it is switched off.
#[derive(Deserialize)]
struct Mutant {
    name: String,
    file: PathBuf,
    from: String,
    to: String,
    #[serde(default)]
    also: Vec<Edit>,
}

/// Another edit of the same mutant.
#[derive(Deserialize)]
struct Edit {
    /// The mutant's own file where it is not given.
    file: Option<PathBuf>,
    from: String,
    to: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("tests/sim/run --mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all mutants, or those whose names contain a word; says whether each was caught.
fn run() -> Result<bool> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list: List = toml::from_str(&fs::read_to_string(root.join(LIST))?)?;
    let target = root.join("target/mutants");
    let tree = target.join("tree");
    copy(&root, &tree)?;
    let mut survivors = 0_u32;
    let mut tried = 0_u32;
    for mutant in &list.mutant {
        if !mutant.name.contains(&wanted) {
            continue;
        }
        tried += 1;
        let genuine = mutant.apply(&tree)?;
        let caught = seeds(&tree, &target);
        for (path, text) in genuine {
            fs::write(path, text)?;
        }
        match caught? {
            Some(how) => println!("caught    {:<48} {how}", mutant.name),
            None => {
                survivors += 1;
                println!("SURVIVED  {:<48} {SEEDS} seeds", mutant.name);
            }
        }
    }
    println!("{tried} mutants, {survivors} survived");
    Ok(survivors == 0 && tried > 0)
}

impl Mutant {
    /// Edits the tree; answers the files as they were.
    fn apply(&self, tree: &Path) -> Result<BTreeMap<PathBuf, String>> {
        let mut genuine = BTreeMap::new();
        let own = (&self.file, &self.from, &self.to);
        let also = self.also.iter().map(|edit| {
            let file = edit.file.as_ref().unwrap_or(&self.file);
            (file, &edit.from, &edit.to)
        });
        for (file, from, to) in std::iter::once(own).chain(also) {
            let path = tree.join(file);
            let text = fs::read_to_string(&path)?;
            let count = text.matches(from.as_str()).count();
            if count != 1 {
                let (name, file) = (&self.name, file.display());
                return Err(format!(
                    "{name}: {from:?} stands {count} times in {file}, not once: mend {LIST}"
                )
                .into());
            }
            fs::write(&path, text.replacen(from.as_str(), to, 1))?;
            genuine.entry(path).or_insert(text);
        }
        Ok(genuine)
    }
}

/// Runs seeds on the mutated tree until one fails; says what was seen, or that nothing was.
fn seeds(tree: &Path, target: &Path) -> Result<Option<String>> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command
            .args(arguments)
            .args(["--quiet", "--package", "cardea-sim", "--bin", "cardea-sim"])
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", target.join("build"))
            .stdin(Stdio::null());
        command
    };
    let built = cargo(&["build"]).output()?;
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr).into_owned();
        return Err(format!("a mutant does not build: {why}").into());
    }
    let mut command = cargo(&["run"]);
    let output = command.args(["--", "--until-failure", SEEDS]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(None);
    }
    let lines: Vec<&str> = said.lines().collect();
    let seed = lines.iter().rev().find(|line| line.contains("replay it"));
    let at = lines.iter().position(|line| line.contains("replay it"));
    let property = at.and_then(|at| lines.get(at.checked_sub(1)?));
    let seed = seed.and_then(|line| line.split_whitespace().nth(1));
    let is_property = |line: &&&str| line.contains("property ") && !line.contains(SET_UP);
    let Some(property) = property.filter(is_property) else {
        return Err(format!("a mutant fails without a property that does not hold: {said}").into());
    };
    let property = property.trim();
    Ok(Some(format!("seed {}: {property}", seed.unwrap_or("?"))))
}

/// Copies what git knows and has not thrown away.
fn copy(root: &Path, tree: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()?;
    let listed = String::from_utf8(listed.stdout)?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(contents) = fs::read(&from) else {
            continue;
        };
        // What has not changed keeps its time, so that it is not built again.
        if fs::read(&to).is_ok_and(|before| before == contents) {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(to, contents)?;
    }
    Ok(())
}
