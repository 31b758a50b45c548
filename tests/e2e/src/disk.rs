//! A disk that is small enough to be full.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Result, bail, ensure};

use crate::program::{command, run_ok};

/// Room for a new state, its index and some reserve.
const ROOM: &str = "size=24m,mode=0700";

/// Changes until there is no room.
const CHANGES_MAX: u32 = 40;

/// A small file system of its own, in memory.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Mounts it at `place`, which must not exist.
    ///
    /// # Errors
    /// Without root.
    pub fn mount(place: &Path) -> Result<Self> {
        fs::create_dir(place)?;
        let options = ["-t", "tmpfs", "-o", ROOM, "tmpfs"].map(Into::into);
        let place_argument = [place.as_os_str().to_owned()];
        run_ok(command("mount", options.into_iter().chain(place_argument)))?;
        Ok(Self {
            place: place.to_owned(),
        })
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    /// When that cannot begin.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.join("filler"))?;
        for block in [vec![0; 64 * 1024], vec![0; 512]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// Makes changes until they are refused for want of room, and leaves nothing of what the journal then
    /// gives back.
    ///
    /// # Errors
    /// When they are never refused, or for another reason.
    pub fn fill_by(&self, change: impl Fn(u32) -> Result<Output>) -> Result<()> {
        for number in 0..CHANGES_MAX {
            self.fill()?;
            let output = change(number)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(
                    output.status.code() == Some(7) && said.contains("disk is full"),
                    "{output:?}"
                );
                return self.fill();
            }
        }
        bail!("the disk was never full")
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.place.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The processes that use it end with the test; it goes when they are gone.
        drop(run_ok(command(
            "umount",
            ["-l".into(), self.place.as_os_str().to_owned()],
        )));
    }
}
