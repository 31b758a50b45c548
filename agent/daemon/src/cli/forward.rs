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
    refusal::Refusal,
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
    watch(stream, what, ending).await
}

/// Shows why connections come to nothing, each reason once in a row.
async fn watch(
    mut stream: UnixStream,
    what: &str,
    mut ending: std::pin::Pin<&mut impl Future<Output = std::io::Result<()>>>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            answer = frame::read(&mut stream, MESSAGE_BYTES_MAX) => match answer {
                Ok(LocalAnswer::Refused(refusal)) => talk::say(&told(what, refusal)),
                Ok(_) => return Err(client::unexpected()),
                Err(error) => return Err(gone(&error)),
            },
            result = &mut ending => {
                return result.map_err(|error| Failure::new(Code::Failed, error.to_string()));
            }
        }
    }
}

/// A refusal with the app that it is about, and what to do.
fn told(what: &str, refusal: Refusal) -> String {
    let text = refusal.advised().to_string();
    if text.starts_with(&format!("{what}: ")) {
        text
    } else {
        format!("{what}: {text}")
    }
}

fn gone(error: &FrameError) -> Failure {
    Failure::new(
        Code::NotReachable,
        format!("the agent ended: {error}. Start it again: cardea up"),
    )
}

#[cfg(test)]
mod tests {
    use cardea_proto::refusal::RefusalCode;

    use super::*;

    #[test]
    fn a_connection_that_comes_to_nothing_is_told_with_its_app_and_what_to_do() {
        let why = "the connector did not reach the app: refused";
        let refusal = Refusal::new(RefusalCode::TargetUnreachable, why);
        assert_eq!(
            told("wiki", refusal),
            "wiki: the connector did not reach the app: refused. \
             Ask an admin to look at the app's target: cardeactl app ls"
        );
        let named = Refusal::new(RefusalCode::NotPermitted, "wiki: denied").with_next("Ask");
        assert_eq!(told("wiki", named), "wiki: denied. Ask");
    }
}
