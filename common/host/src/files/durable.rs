//! Names that are still there after a loss of power.
//!
//! A new name stands in its folder's data, which a sync of what it names does not write (fsync(2)).

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Makes a folder for its owner alone, and the parents that are missing; each has a durable name. One
/// that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make_folder(path: &Path) -> io::Result<()> {
    make_folder_with(path, &mut sync_name)
}

/// Makes the name of a file or folder durable.
///
/// # Errors
/// What the system says.
pub fn sync_name(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let here = folder.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { folder })?.sync_all()
}

fn make_folder_with(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let parents = path.ancestors().skip(1);
    let is_missing = |parent: &&Path| !parent.as_os_str().is_empty() && !parent.exists();
    let missing: Vec<&Path> = parents.take_while(is_missing).collect();
    for parent in missing.into_iter().rev() {
        named(parent, fs::create_dir(parent), sync)?;
    }
    named(path, DirBuilder::new().mode(0o700).create(path), sync)
}

fn named(
    path: &Path,
    made: io::Result<()>,
    sync: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    match made {
        Ok(()) => sync(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    #[test]
    fn the_name_of_each_folder_that_is_made_is_synced_once_it_is_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b/c");
        let synced = |path: &Path| {
            let mut synced = Vec::new();
            let sync = &mut |path: &Path| {
                assert!(path.is_dir(), "{}", path.display());
                synced.push(path.to_owned());
                sync_name(path)
            };
            make_folder_with(path, sync).unwrap();
            synced
        };
        let made: Vec<PathBuf> = ["a", "a/b", "a/b/c"]
            .map(|name| place.path().join(name))
            .into();
        assert_eq!(synced(&path), made);
        assert!(synced(&path).is_empty());
        assert_eq!(synced(&place.path().join("a/b/d")).len(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_folder_whose_name_is_not_durable_is_not_made() {
        let place = tempfile::tempdir().unwrap();
        let mut refused = |_: &Path| Err(io::Error::from(io::ErrorKind::StorageFull));
        assert!(make_folder_with(&place.path().join("a"), &mut refused).is_err());
    }

    #[test]
    fn a_name_without_a_folder_stands_in_the_current_one() {
        sync_name(Path::new("Cargo.toml")).unwrap();
        sync_name(Path::new("/")).unwrap();
    }
}
