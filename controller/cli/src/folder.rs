//! Policy folders on disk: `*.cedar` and `*.test.toml`, in any depth.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cardea_host::{
    exit::{Code, Failure},
    files::read_named_text,
};
use cardea_proto::policy::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX, PolicyFile};

/// Deepest folder within a folder.
const DEPTH_MAX: u32 = 16;

/// The files of the folder at `dir`, by path.
pub(crate) fn read(dir: &Path) -> Result<Vec<PolicyFile>, Failure> {
    let mut files = Vec::new();
    walk(dir, "", DEPTH_MAX, &mut files)?;
    files.sort_unstable();
    if files.is_empty() {
        return Err(failure(dir, "no *.cedar and no *.test.toml in it"));
    }
    Ok(files)
}

/// Writes files into `dir`, which must be empty or new.
pub(crate) fn write(dir: &Path, files: &[PolicyFile]) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| failure(&path, &error.to_string())
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(failure(dir, "is not empty"));
    }
    for file in files {
        let path = dir.join(
            inside(&file.path)
                .ok_or_else(|| failure(dir, &format!("{:?} would lie outside", file.path)))?,
        );
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&path, &file.text).map_err(failed(&path))?;
    }
    Ok(())
}

fn walk(dir: &Path, prefix: &str, depth: u32, files: &mut Vec<PolicyFile>) -> Result<(), Failure> {
    let entries = fs::read_dir(dir).map_err(|error| failure(dir, &error.to_string()))?;
    for entry in entries {
        let entry = entry.map_err(|error| failure(dir, &error.to_string()))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(failure(&path, "its name is not UTF-8"));
        };
        let shown = format!("{prefix}{name}");
        let kind = fs::metadata(&path).map_err(|error| failure(&path, &error.to_string()))?;
        if kind.is_dir() {
            if !name.starts_with('.') {
                let depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| failure(&path, "too deep"))?;
                walk(&path, &format!("{shown}/"), depth, files)?;
            }
        } else if name.ends_with(".cedar") || name.ends_with(".test.toml") {
            if files.len() == POLICY_FILES_MAX {
                return Err(failure(dir, &format!("more than {POLICY_FILES_MAX} files")));
            }
            let most = u64::try_from(POLICY_FILE_BYTES_MAX).unwrap_or(u64::MAX);
            let text = read_named_text(&path, most).map_err(|error| error.failure(&path))?;
            files.push(PolicyFile { path: shown, text });
        }
    }
    Ok(())
}

/// A relative path that stays where it is put.
fn inside(path: &str) -> Option<PathBuf> {
    let is_name =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path.split('/').all(is_name).then(|| PathBuf::from(path))
}

fn failure(path: &Path, why: &str) -> Failure {
    let next = "Name a folder of *.cedar and *.test.toml files, such as policy in the controller's state directory";
    Failure::of(Code::Failed, &path.display().to_string(), why, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_or_a_large_file_is_no_policy() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("base.cedar");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let failure = read(place.path()).unwrap_err();
        assert!(failure.message.contains("is a device"), "{failure}");
        fs::remove_file(&path).unwrap();
        let large = fs::File::create(&path).unwrap();
        large
            .set_len(u64::try_from(POLICY_FILE_BYTES_MAX).unwrap() + 1)
            .unwrap();
        let failure = read(place.path()).unwrap_err();
        assert!(failure.message.contains("is larger than"), "{failure}");
    }

    #[test]
    fn a_folder_reads_back_as_it_was_written() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("policy");
        let files = [
            file("apps/wiki.cedar"),
            file("base.cedar"),
            file("base.test.toml"),
        ];
        write(&dir, &files).unwrap();
        fs::write(dir.join("README.md"), "notes").unwrap();
        fs::create_dir(dir.join(".git")).unwrap();
        fs::write(dir.join(".git/x.cedar"), "no").unwrap();
        assert_eq!(read(&dir).unwrap(), files);
        assert!(
            write(&dir, &files)
                .unwrap_err()
                .message
                .contains("not empty")
        );
    }

    #[test]
    fn a_folder_without_policies_is_a_mistake() {
        let place = tempfile::tempdir().unwrap();
        assert!(read(place.path()).is_err());
        assert!(read(&place.path().join("none")).is_err());
    }

    #[test]
    fn no_file_is_written_outside() {
        let place = tempfile::tempdir().unwrap();
        for path in ["../x.cedar", "/etc/x.cedar", "a/../../x.cedar", ""] {
            assert!(write(place.path(), &[file(path)]).is_err(), "{path}");
        }
    }

    fn file(path: &str) -> PolicyFile {
        PolicyFile {
            path: path.to_owned(),
            text: format!("// {path}\n"),
        }
    }
}
