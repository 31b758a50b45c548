//! Where the controller is and which key signs: flags over environment over file over defaults.

use std::path::{Path, PathBuf};

use cardea_host::{
    exit::{Code, Failure},
    files::{CONFIG_BYTES_MAX, default_state, read_named_text},
};
use serde::Deserialize;

use crate::args::{Format, Global};

/// The program whose state directory holds the socket and the first admin's key.
const CONTROLLER: &str = "controller";

/// What a command needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The admin socket.
    pub socket: PathBuf,
    /// The admin's key.
    pub key: PathBuf,
    /// How to print.
    pub format: Format,
    /// Whether to go on without asking.
    pub yes: bool,
}

/// The file of `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    admin: Option<String>,
    admin_key: Option<PathBuf>,
    state: Option<PathBuf>,
    output: Option<Format>,
}

impl Settings {
    /// The state directory that holds the socket.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.socket.parent().unwrap_or(Path::new(".")).to_owned()
    }

    /// Settings of this command line.
    ///
    /// # Errors
    /// [`Failure`] when the file or the address cannot be understood, or nothing says where to look.
    pub fn of(global: &Global) -> Result<Self, Failure> {
        let config = match &global.config {
            Some(path) => read(path)?,
            None => Config::default(),
        };
        let state = global.state.clone().or(config.state);
        let named = global.admin.clone().or(config.admin);
        let socket = match &named {
            Some(address) => socket_of(address)?,
            None => state
                .clone()
                .or_else(|| default_state(CONTROLLER))
                .ok_or_else(no_place)?
                .join("admin.sock"),
        };
        // The key that init made lies beside the socket.
        let beside = || socket.parent().map(|dir| dir.join("keys/admin.key"));
        let key = global
            .admin_key
            .clone()
            .or(config.admin_key)
            .or_else(|| state.map(|dir| dir.join("keys/admin.key")))
            .or_else(beside)
            .ok_or_else(no_place)?;
        Ok(Self {
            socket,
            key,
            format: global.output.or(config.output).unwrap_or_default(),
            yes: global.yes,
        })
    }
}

fn read(path: &Path) -> Result<Config, Failure> {
    let shown = path.display().to_string();
    let text = read_named_text(path, CONFIG_BYTES_MAX).map_err(|error| error.failure(path))?;
    toml::from_str(&text).map_err(|error| Failure::of(Code::Usage, &shown, error, "Mend that line"))
}

fn socket_of(address: &str) -> Result<PathBuf, Failure> {
    address
        .strip_prefix("unix:")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| {
            Failure::of(
                Code::Usage,
                "--admin",
                format!("{address:?} is not unix:PATH"),
                "For example: --admin unix:/var/lib/cardea/controller/admin.sock",
            )
        })
}

fn no_place() -> Failure {
    Failure::of(
        Code::Usage,
        "no controller",
        "nothing says where its state directory is",
        "Give --admin unix:PATH and --admin-key FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_lies_beside_the_socket_unless_told_otherwise() {
        let settings = settings(Some("unix:/x/admin.sock"), None, None);
        assert_eq!(settings.socket, Path::new("/x/admin.sock"));
        assert_eq!(settings.key, Path::new("/x/keys/admin.key"));
    }

    #[test]
    fn a_device_is_no_configuration() {
        let failure = read(Path::new("/dev/zero")).unwrap_err();
        assert!(
            failure.message.starts_with("/dev/zero: is a device"),
            "{failure}"
        );
    }

    #[test]
    fn the_state_directory_holds_both() {
        let settings = settings(None, Some("/s"), None);
        assert_eq!(settings.socket, Path::new("/s/admin.sock"));
        assert_eq!(settings.key, Path::new("/s/keys/admin.key"));
        assert_eq!(settings.format, Format::Table);
    }

    #[test]
    fn flags_stand_before_the_file() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("cardeactl.toml");
        std::fs::write(
            &file,
            "admin = \"unix:/f/a.sock\"\nadmin_key = \"/f/key\"\noutput = \"json\"\n",
        )
        .unwrap();
        let from_file = settings(None, None, Some(&file));
        assert_eq!(from_file.socket, Path::new("/f/a.sock"));
        assert_eq!(from_file.key, Path::new("/f/key"));
        assert_eq!(from_file.format, Format::Json);
        let both = settings(Some("unix:/x/admin.sock"), None, Some(&file));
        assert_eq!(both.socket, Path::new("/x/admin.sock"));
    }

    #[test]
    fn what_is_not_understood_is_usage() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("cardeactl.toml");
        std::fs::write(&file, "admn = \"unix:/f\"\n").unwrap();
        let global = Global {
            config: Some(file),
            ..Global::default()
        };
        let failure = Settings::of(&global).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains("admn"), "{failure}");
        for admin in ["/x/admin.sock", "tcp:1.2.3.4:5", "unix:"] {
            let global = Global {
                admin: Some(admin.to_owned()),
                ..Global::default()
            };
            assert_eq!(Settings::of(&global).unwrap_err().code, 2, "{admin}");
        }
    }

    fn settings(admin: Option<&str>, state: Option<&str>, config: Option<&Path>) -> Settings {
        Settings::of(&Global {
            admin: admin.map(str::to_owned),
            state: state.map(PathBuf::from),
            config: config.map(Path::to_owned),
            ..Global::default()
        })
        .unwrap()
    }
}
