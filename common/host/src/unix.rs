//! Unix sockets for local APIs: made with a mode, answered with the caller's identity.

use std::{
    io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream as SyncStream,
    },
    path::Path,
    time::Duration,
};

use rustix::fs::Mode;
pub use tokio::net::{UnixListener, UnixStream};

use crate::exit::{Code, Failure};

/// Who is at the other end of a Unix socket, as the kernel says (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The user.
    pub user: u32,
    /// The process that connected.
    pub process: i32,
}

impl PeerCredentials {
    /// Whether the caller is root or the user that this process acts as.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        self.user == 0 || self.user == crate::process::effective_user()
    }
}

/// Listens at `path` with permission bits `mode`; a socket that a dead process left there goes.
///
/// The caller holds the lock of the directory, so whatever socket is there belongs to nobody.
///
/// # Errors
/// As the system says; a file that is no socket stays where it is and is an error.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The socket is born closed to everybody and then opened as far as it should be.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// The same for a socket that `owner` may connect to as well, in a directory that everybody may pass.
///
/// # Errors
/// As [`listen`].
pub fn listen_for(path: &Path, owner: u32) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        std::fs::DirBuilder::new().mode(0o755).create(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))?;
    }
    let listener = listen(path, 0o600)?;
    std::os::unix::fs::chown(path, Some(owner), None)?;
    Ok(listener)
}

/// The caller's identity.
///
/// # Errors
/// As the system says.
pub fn peer(stream: &UnixStream) -> io::Result<PeerCredentials> {
    let credentials = stream.peer_cred()?;
    Ok(PeerCredentials {
        user: credentials.uid(),
        process: credentials.pid().unwrap_or(0),
    })
}

/// Connects for a program without a runtime; each read and write may take `time`.
///
/// # Errors
/// As the system says: `NotFound` and `ConnectionRefused` mean that no daemon runs there.
pub fn connect_sync(path: &Path, time: Option<Duration>) -> io::Result<SyncStream> {
    let stream = SyncStream::connect(path)?;
    stream.set_read_timeout(time)?;
    stream.set_write_timeout(time)?;
    Ok(stream)
}

/// What a person is told who waited `time` in vain for the daemon behind `stream`: which process it
/// is, whether somebody stopped it, and what to type. `start` is the command that starts it.
#[must_use]
pub fn no_answer(stream: &SyncStream, program: &str, time: Duration, start: &str) -> Failure {
    let process = rustix::net::sockopt::socket_peercred(stream).map(|peer| peer.pid.as_raw_pid());
    let Ok(process) = process else {
        let what = format!("{program} has not answered within {} s", time.as_secs());
        return Failure::of(
            Code::NotReachable,
            &what,
            "it hangs or is stopped",
            &format!("Restart it: {start}"),
        );
    };
    let what = format!(
        "{program} (process {process}) has not answered within {} s",
        time.as_secs()
    );
    let (why, next) = if is_stopped(process) {
        (
            "it is stopped",
            format!("Let it go on: kill -CONT {process}"),
        )
    } else {
        (
            "it hangs",
            format!("Restart it: kill -KILL {process}, then: {start}"),
        )
    };
    Failure::of(Code::NotReachable, &what, why, &next)
}

/// Whether a process was stopped by a signal or a debugger (proc(5), `stat`: its state stands behind
/// its name, which may hold anything in parentheses).
fn is_stopped(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_some_and(|state| state.starts_with(['T', 't']))
    })
}

#[cfg(test)]
mod tests {
    use cardea_proto::local::{LocalAnswer, LocalRequest};

    use super::*;
    use crate::frame;

    const TIME: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_request_comes_with_its_callers_identity() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent.sock");
        let listener = listen(&path, 0o660).unwrap();
        let bits = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(bits & 0o777, 0o660);

        let caller = std::thread::spawn(move || {
            let mut stream = connect_sync(&path, Some(TIME)).unwrap();
            frame::write_sync(&mut stream, &LocalRequest::Down).unwrap();
            frame::read_sync::<LocalAnswer>(&mut stream, 1_024).unwrap()
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let who = peer(&stream).unwrap();
        assert_eq!(who.user, crate::process::effective_user());
        assert!(who.may_administer());
        let request: LocalRequest = frame::read_within(&mut stream, 1_024, TIME).await.unwrap();
        assert_eq!(request, LocalRequest::Down);
        let answer = LocalAnswer::Done("down".to_owned());
        frame::write_within(&mut stream, &answer, TIME)
            .await
            .unwrap();
        assert_eq!(caller.join().unwrap(), answer);
    }

    #[test]
    fn whose_daemon_does_not_answer_is_told_which_process_it_is() {
        let (here, _there) = SyncStream::pair().unwrap();
        let failure = no_answer(&here, "cardea", TIME, "cardea up");
        let own = std::process::id();
        assert_eq!(
            failure.message,
            format!(
                "cardea (process {own}) has not answered within 5 s: it hangs. \
                 Restart it: kill -KILL {own}, then: cardea up"
            )
        );
        assert_eq!(failure.code, 5);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent.sock");
        drop(listen(&path, 0o600).unwrap());
        listen(&path, 0o600).unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, b"mine").unwrap();
        assert!(listen(&file, 0o600).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }
}
