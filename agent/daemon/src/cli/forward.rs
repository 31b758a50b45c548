//! `forward` and `proxy`: asks the daemon for a listener and holds it until Ctrl-C.

use std::time::Duration;

use cardea_host::{
    exit::{Code, Failure},
    frame::{self, FrameError},
    process,
    unix::UnixStream,
};
use cardea_proto::{
    codec::MESSAGE_BYTES_MAX,
    local::{LocalAnswer, LocalRequest},
};

use super::{Settings, client, start::block_on};
use crate::talk;

/// How long the daemon may take to take a request.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Holds what `request` asks for; `what` is what the listener leads to.
pub(super) fn hold(
    settings: &Settings,
    program: &str,
    request: &LocalRequest,
    what: &str,
) -> Result<(), Failure> {
    client::find_answering(settings, program)?;
    block_on(hold_until_ctrl_c(settings, program, request, what))?
}

async fn hold_until_ctrl_c(
    settings: &Settings,
    program: &str,
    request: &LocalRequest,
    what: &str,
) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(settings.door())
        .await
        .map_err(|error| client::no_daemon(settings, program, &error))?;
    frame::write_within(&mut stream, request, REQUEST_TIME)
        .await
        .map_err(|error| gone(&error))?;
    let mut ending = std::pin::pin!(process::asked_to_end());
    let answer = tokio::select! {
        answer = frame::read(&mut stream, MESSAGE_BYTES_MAX) => answer.map_err(|error| gone(&error))?,
        result = &mut ending => {
            return result.map_err(|error| Failure::new(Code::Failed, error.to_string()));
        }
    };
    if let LocalAnswer::Refused(refusal) = answer {
        return Err(refusal.into());
    }
    let LocalAnswer::Listening { address } = answer else {
        return Err(client::unexpected());
    };
    talk::say(&format!("{what} is at {address} until Ctrl-C"));
    talk::print(&address)?;
    watch(stream, ending).await
}

/// Shows why connections come to nothing, each reason once in a row.
async fn watch(
    mut stream: UnixStream,
    mut ending: std::pin::Pin<&mut impl Future<Output = std::io::Result<()>>>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            answer = frame::read(&mut stream, MESSAGE_BYTES_MAX) => match answer {
                Ok(LocalAnswer::Refused(refusal)) => talk::say(&refusal.to_string()),
                Ok(_) => return Err(client::unexpected()),
                Err(error) => return Err(gone(&error)),
            },
            result = &mut ending => {
                return result.map_err(|error| Failure::new(Code::Failed, error.to_string()));
            }
        }
    }
}

fn gone(error: &FrameError) -> Failure {
    Failure::new(
        Code::NotReachable,
        format!("the agent ended: {error}. Start it again: cardea up"),
    )
}
