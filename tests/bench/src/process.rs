//! What a process has used, as the kernel counts it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

/// A clock tick of /proc. Source: `USER_HZ`, the same on every architecture we know.
const TICK: Duration = Duration::from_millis(10);

/// A process, or one thread of it.
#[derive(Debug)]
pub(crate) struct Process(PathBuf);

impl Process {
    /// The process with this id.
    pub(crate) fn of(id: u32) -> Self {
        Self(PathBuf::from("/proc").join(id.to_string()))
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self::at("/proc/self".into())
    }

    /// What has this folder in /proc.
    pub(crate) const fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// User and system time. Source: proc(5), fields 14 and 15 of `stat`.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(self.0.join("stat"))?;
        let (_, fields) = text.rsplit_once(')').context("no fields")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut field = || -> Result<u32> { Ok(fields.next().context("no field")?.parse()?) };
        Ok(TICK * (field()? + field()?))
    }

    /// Memory that is resident, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let text = fs::read_to_string(self.0.join("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.context("no VmRSS")?.parse()?)
    }
}
