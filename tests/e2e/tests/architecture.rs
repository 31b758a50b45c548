//! Holds the tree to its own `ARCHITECTURE.md`: arrows, purity, lints, links.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test does outside of its test function may panic as well"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every crate of ours and what it may import of ours; tests and benchmarks may import more.
const ARROWS: &[(&str, &[&str])] = &[
    ("cardea-proto", &[]),
    ("cardea-credential", &["cardea-proto"]),
    ("cardea-aead", &[]),
    ("cardea-tunnel", &["cardea-proto", "cardea-aead"]),
    ("cardea-ledger", &["cardea-proto", "cardea-credential"]),
    ("cardea-host", &["cardea-proto", "cardea-credential"]),
    ("cardea-relay", &["cardea-proto", "cardea-credential"]),
    (
        "cardea-core",
        &["cardea-proto", "cardea-credential", "cardea-ledger"],
    ),
    (
        "cardea-store",
        &["cardea-proto", "cardea-ledger", "cardea-core"],
    ),
    (
        "cardea-node",
        &[
            "cardea-proto",
            "cardea-credential",
            "cardea-ledger",
            "cardea-tunnel",
        ],
    ),
    (
        "cardea-device",
        &["cardea-proto", "cardea-credential", "cardea-host"],
    ),
    (
        "cardea-server",
        &[
            "cardea-proto",
            "cardea-credential",
            "cardea-host",
            "cardea-ledger",
            "cardea-core",
            "cardea-store",
            "cardea-relay",
            "cardea-relay-server",
        ],
    ),
    (
        "cardea-relay-server",
        &[
            "cardea-proto",
            "cardea-credential",
            "cardea-host",
            "cardea-relay",
        ],
    ),
    (
        "cardea-cli",
        &[
            "cardea-proto",
            "cardea-credential",
            "cardea-ledger",
            "cardea-host",
        ],
    ),
    (
        "cardea-daemon",
        &[
            "cardea-proto",
            "cardea-credential",
            "cardea-ledger",
            "cardea-host",
            "cardea-tunnel",
            "cardea-node",
            "cardea-device",
        ],
    ),
];

/// Crates that take time, entropy and bytes as values.
const PURE: &[&str] = &[
    "cardea-proto",
    "cardea-aead",
    "cardea-credential",
    "cardea-ledger",
    "cardea-tunnel",
    "cardea-relay",
    "cardea-core",
    "cardea-node",
];

/// What no pure crate may name.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "quinn",
    "quinn-udp",
    "rustix",
    "sled",
];

/// What the source of a pure crate may not say, outside its tests.
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "env::var",
];

#[test]
fn no_crate_imports_what_its_arrows_forbid() {
    let packages = packages();
    for (name, allowed) in ARROWS {
        let package = packages
            .get(*name)
            .unwrap_or_else(|| panic!("{name} is not a member"));
        let ours: BTreeSet<&str> = package
            .dependencies
            .iter()
            .map(String::as_str)
            .filter(|dependency| dependency.starts_with("cardea-"))
            .collect();
        let extra: Vec<_> = ours
            .iter()
            .filter(|import| !allowed.contains(import))
            .collect();
        assert!(extra.is_empty(), "{name} imports {extra:?}");
    }
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (name, package) in &packages {
        let a_test = package.folder.starts_with(root().join("tests"));
        assert!(
            a_test || known.contains(name.as_str()),
            "{name} has no arrows"
        );
    }
}

#[test]
fn a_pure_crate_links_nothing_that_reads_the_world() {
    let packages = packages();
    for name in PURE {
        let package = &packages[*name];
        for impure in IMPURE_CRATES {
            assert!(
                !package.dependencies.contains(*impure),
                "{name} imports {impure}"
            );
        }
        for file in rust_files(&package.folder.join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for word in IMPURE_WORDS {
                    let at_origin = file.ends_with("proto/src/time.rs") && *word == "Instant::now";
                    let in_tests =
                        file.ends_with("tests.rs") || file.iter().any(|part| part == "tests");
                    assert!(
                        !code.contains(word) || at_origin || in_tests,
                        "{}:{}: {word}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

#[test]
fn every_crate_takes_the_lints_and_forbids_unsafe_code() {
    for (name, package) in packages() {
        let manifest = fs::read_to_string(package.folder.join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} has its own lints"
        );
        if ["cardea-host", "cardea-device", "cardea-aead"].contains(&name.as_str()) {
            continue;
        }
        for start in ["src/lib.rs", "src/main.rs"] {
            let file = package.folder.join(start);
            if let Ok(text) = fs::read_to_string(&file) {
                assert!(
                    text.contains("#![forbid(unsafe_code)]"),
                    "{}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_cipher_has_one_module_with_unsafe_code() {
    let folder = root().join("common/aead/src");
    let lib = fs::read_to_string(folder.join("lib.rs")).unwrap();
    assert!(lib.contains("#![deny(unsafe_code)]"));
    for file in rust_files(&folder) {
        let text = fs::read_to_string(&file).unwrap();
        let mut code = text.lines().filter(|line| !line.trim().starts_with("//"));
        assert_eq!(
            code.any(|line| line.contains("unsafe {")),
            file.ends_with("wide/dispatch.rs"),
            "{}",
            file.display()
        );
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    let output = Command::new("git")
        .args(["ls-files", "*.md"])
        .current_dir(root())
        .output()
        .unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    for file in files.lines().map(|file| root().join(file)) {
        let text = fs::read_to_string(&file).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let place = file.parent().unwrap().join(path);
            assert!(place.exists(), "{} links to {target}", file.display());
        }
    }
}

/// A member of the workspace.
struct Package {
    folder: PathBuf,
    /// What it links when it is built for use: tests' own needs are left out.
    dependencies: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let dependencies = dependencies
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
                .collect();
            let folder = manifest.parent().unwrap().to_owned();
            (
                package["name"].as_str().unwrap().to_owned(),
                Package {
                    folder,
                    dependencies,
                },
            )
        })
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}
