//! What the command line says to the running daemon.

use std::{io, path::Path, time::Duration};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    files::Dir,
    frame, unix,
};
use cardea_proto::{
    codec::MESSAGE_BYTES_MAX,
    local::{LocalAnswer, LocalRequest},
};

use super::Settings;
use crate::{local::NOT_FOR_YOU, state};

/// How long the daemon may take for what it knows: it finds out for two seconds at most which tunnels
/// carry anything.
const PROMPT_TIME: Duration = Duration::from_secs(5);

/// How long it may take for what it asks others: longer than anything that it waits for itself.
const PATIENT_TIME: Duration = Duration::from_secs(30);

/// Whether a daemon answers.
pub(super) fn is_running(settings: &Settings) -> bool {
    unix::connect_sync(&settings.door(), None).is_ok()
}

/// Asks the daemon one thing.
///
/// # Errors
/// Its refusal, or that there is no daemon, or that it hangs.
pub(super) fn ask(
    settings: &Settings,
    program: &str,
    request: &LocalRequest,
) -> Result<LocalAnswer, Failure> {
    match request {
        LocalRequest::Status | LocalRequest::Apps | LocalRequest::Up | LocalRequest::Down => {
            ask_within(settings, program, request, PROMPT_TIME)
        }
        LocalRequest::Explain(_)
        | LocalRequest::Posture
        | LocalRequest::Forward { .. }
        | LocalRequest::Proxy { .. }
        | LocalRequest::RestoreDns
        | LocalRequest::Netcheck => {
            find_answering(settings, program)?;
            ask_within(settings, program, request, PATIENT_TIME)
        }
    }
}

/// Finds out that the daemon answers at all, before something is asked that may take long.
///
/// # Errors
/// That there is none, or that it hangs.
pub(super) fn find_answering(settings: &Settings, program: &str) -> Result<(), Failure> {
    ask_within(settings, program, &LocalRequest::Status, PROMPT_TIME).map(drop)
}

fn ask_within(
    settings: &Settings,
    program: &str,
    request: &LocalRequest,
    time: Duration,
) -> Result<LocalAnswer, Failure> {
    let mut stream = unix::connect_sync(&settings.door(), Some(time))
        .map_err(|error| no_daemon(settings, program, &error))?;
    let start = format!("{program} up");
    let answer = frame::write_sync(&mut stream, request)
        .and_then(|()| frame::read_sync(&mut stream, MESSAGE_BYTES_MAX))
        .map_err(|error| {
            if error.is_late() {
                return unix::no_answer(&stream, program, time, &start);
            }
            let next = format!("Start it again: {start}");
            Failure::of(
                Code::NotReachable,
                &format!("{program} ended before it answered"),
                error,
                &next,
            )
        })?;
    if let LocalAnswer::Refused(refusal) = answer {
        return Err(refusal.into());
    }
    Ok(answer)
}

/// Why nobody answers: not enrolled, not running, or not for us.
pub(super) fn no_daemon(settings: &Settings, program: &str, error: &io::Error) -> Failure {
    let kind = error.kind();
    let door = settings.door();
    if kind == io::ErrorKind::PermissionDenied {
        let next = format!("Become its operator: sudo {program} up --operator USER");
        return Failure::of(
            Code::Failed,
            &door.display().to_string(),
            NOT_FOR_YOU,
            &next,
        );
    }
    if !matches!(
        kind,
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    ) {
        return Failure::new(
            Code::Failed,
            format!("{}: {error}. {}", door.display(), io_advice(error)),
        );
    }
    if is_enrolled(&settings.state) || settings.socket.is_some() {
        return Failure::new(
            Code::NotReachable,
            format!("{program} is not running. Start it: {program} up"),
        );
    }
    not_enrolled(program)
}

/// Nobody has enrolled here.
pub(super) fn not_enrolled(program: &str) -> Failure {
    Failure::new(
        Code::NotEnrolled,
        format!("this machine is not enrolled. Get a code from an admin, then: {program} up CODE"),
    )
}

/// An answer that does not fit the question: another version's daemon.
pub(super) fn unexpected() -> Failure {
    Failure::new(
        Code::Failed,
        "the daemon gave an answer of another kind: it is of another version. Stop it, and start it \
         again from the same installation as this program",
    )
}

/// Whether this state directory is that of a node, as far as we may look.
pub(super) fn is_enrolled(state: &Path) -> bool {
    enrolled(state) == Some(true)
}

/// Whether somebody enrolled in this state directory; `None` where it cannot be looked at.
pub(super) fn enrolled(state: &Path) -> Option<bool> {
    match Dir::open(state) {
        Ok(dir) => Some(state::is_enrolled(&dir)),
        Err(_) => match state.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
            Ok(_) | Err(_) => None,
        },
    }
}
