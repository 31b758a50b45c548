//! The local API's socket: who may ask, and what is kept for as long as somebody listens.

use std::{io, path::Path, time::Duration};

use cardea_host::{
    frame::{self, FrameError},
    unix::{self, PeerCredentials, UnixListener, UnixStream},
};
use cardea_proto::{
    local::{LocalAnswer, LocalRequest},
    refusal::{Refusal, RefusalCode},
};
use tokio::sync::{mpsc, oneshot};

use crate::{data::ListenerId, operator::Operator};

/// Name of the socket in the state directory.
pub(crate) const SOCKET: &str = "agent.sock";

/// Permission bits of the socket; `SO_PEERCRED` decides all the same.
const SOCKET_MODE: u32 = 0o660;

/// What somebody else is told.
pub(crate) const NOT_FOR_YOU: &str =
    "only root, the user that runs this agent and its operator may ask it";

/// Largest request, in bytes: names and addresses.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// How long a program may take to say what it wants, and to take the answer.
const EXCHANGE_TIME: Duration = Duration::from_secs(5);

/// Connections at a time; each of them is a program of the same user.
const CONNECTIONS_MAX: usize = 256;

/// Calls that wait for the daemon's loop.
const CALLS_MAX: usize = 64;

/// Refusals that wait for a slow `forward`; it needs to show one, not all.
const REFUSALS_MAX: usize = 16;

/// A request with the way back.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: LocalRequest,
    /// Who asks.
    pub(crate) caller: PeerCredentials,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// The daemon's answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: LocalAnswer,
    /// What is kept while the connection lives.
    pub(crate) kept: Option<Kept>,
}

/// A listener that lives as long as the connection which asked for it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Says that the connection has ended, when it is dropped.
    pub(crate) guard: Guard,
    /// Why connections to the listener came to nothing.
    pub(crate) refusals: mpsc::Receiver<Refusal>,
}

/// Tells the daemon's loop that a listener is not needed any more.
#[derive(Debug)]
pub(crate) struct Guard {
    listener: ListenerId,
    ended: mpsc::UnboundedSender<ListenerId>,
}

impl Guard {
    pub(crate) const fn new(
        listener: ListenerId,
        ended: mpsc::UnboundedSender<ListenerId>,
    ) -> Self {
        Self { listener, ended }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended.send(self.listener).is_err() {
            tracing::trace!("a listener outlived the daemon's loop");
        }
    }
}

impl From<LocalAnswer> for Reply {
    fn from(answer: LocalAnswer) -> Self {
        Self { answer, kept: None }
    }
}

/// The queue of a listener's refusals.
pub(crate) fn refusals() -> (mpsc::Sender<Refusal>, mpsc::Receiver<Refusal>) {
    mpsc::channel(REFUSALS_MAX)
}

/// Listens in `state`, and where the operator can reach it, and hands calls over. Must be called
/// within a tokio runtime.
///
/// # Errors
/// As the system says.
pub(crate) fn serve(state: &Path, operator: Option<&Operator>) -> io::Result<mpsc::Receiver<Call>> {
    let (calls, waiting) = mpsc::channel(CALLS_MAX);
    if let Some(Operator { user, socket }) = operator {
        let listener = unix::listen_for(socket, *user)?;
        tokio::spawn(accept(listener, Some(*user), calls.clone()));
    }
    let listener = unix::listen(&state.join(SOCKET), SOCKET_MODE)?;
    tokio::spawn(accept(listener, None, calls));
    Ok(waiting)
}

async fn accept(listener: UnixListener, operator: Option<u32>, calls: mpsc::Sender<Call>) {
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a local program could not be heard");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = std::sync::Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, operator, &calls).await {
                tracing::debug!(reason = %error, "a local program went away");
            }
            drop(permit);
        });
    }
}

/// One request and its answer, and refusals for as long as a listener is kept.
async fn converse(
    mut stream: UnixStream,
    operator: Option<u32>,
    calls: &mpsc::Sender<Call>,
) -> Result<(), FrameError> {
    let permitted = unix::peer(&stream)
        .ok()
        .filter(|caller| caller.may_administer() || operator == Some(caller.user));
    let request = frame::read_within(&mut stream, REQUEST_BYTES_MAX, EXCHANGE_TIME).await;
    let reply = match (permitted, request) {
        (None, _) => refused(RefusalCode::Unauthorized, NOT_FOR_YOU),
        (Some(caller), Ok(request)) => call(request, caller, calls).await,
        (Some(_), Err(error @ (FrameError::Decode(_) | FrameError::Truncated))) => {
            refused(RefusalCode::Protocol, &error.to_string())
        }
        (Some(_), Err(error)) => return Err(error),
    };
    frame::write_within(&mut stream, &reply.answer, EXCHANGE_TIME).await?;
    if let Some(kept) = reply.kept {
        keep(stream, kept).await?;
    }
    Ok(())
}

async fn call(request: LocalRequest, caller: PeerCredentials, calls: &mpsc::Sender<Call>) -> Reply {
    let (reply, answer) = oneshot::channel();
    let ended = || refused(RefusalCode::Unreachable, "the agent is ending");
    let call = Call {
        request,
        caller,
        reply,
    };
    if calls.send(call).await.is_err() {
        return ended();
    }
    answer.await.unwrap_or_else(|_| ended())
}

/// Passes refusals on until the program closes its end, which it does when it ends.
async fn keep(stream: UnixStream, mut kept: Kept) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.into_split();
    loop {
        tokio::select! {
            // Whatever comes, be it the end or more bytes, there is nothing more to ask here.
            _ = frame::read::<LocalRequest, _>(&mut reader, REQUEST_BYTES_MAX) => break,
            refusal = kept.refusals.recv() => match refusal {
                Some(refusal) => {
                    let answer = LocalAnswer::Refused(refusal);
                    frame::write_within(&mut writer, &answer, EXCHANGE_TIME).await?;
                }
                None => break,
            },
        }
    }
    drop(kept.guard);
    Ok(())
}

fn refused(code: RefusalCode, why: &str) -> Reply {
    LocalAnswer::Refused(Refusal::new(code, why)).into()
}

#[cfg(test)]
mod tests {
    use cardea_proto::codec;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const ANSWER_BYTES_MAX: usize = 1_024;

    #[tokio::test]
    async fn a_request_has_one_answer() {
        let place = tempfile::tempdir().unwrap();
        let mut calls = serve(place.path(), None).unwrap();
        let asked = tokio::spawn(ask(place.path().join(SOCKET), LocalRequest::Down));
        let call = calls.recv().await.unwrap();
        assert_eq!(call.request, LocalRequest::Down);
        let answer = LocalAnswer::Done("down".to_owned());
        call.reply.send(answer.clone().into()).unwrap();
        let (_stream, answered) = asked.await.unwrap();
        assert_eq!(answered, answer);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_and_the_next_one_is_heard() {
        let place = tempfile::tempdir().unwrap();
        let mut calls = serve(place.path(), None).unwrap();
        let too_large = u32::MAX.to_be_bytes().to_vec();
        for bytes in [codec::encode_framed(&"no_such_request"), too_large] {
            let mut stream = UnixStream::connect(place.path().join(SOCKET))
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
            let answer = frame::read(&mut stream, ANSWER_BYTES_MAX).await.unwrap();
            let LocalAnswer::Refused(refusal) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(refusal.code, RefusalCode::Protocol);
        }
        let asked = tokio::spawn(ask(place.path().join(SOCKET), LocalRequest::Status));
        assert_eq!(calls.recv().await.unwrap().request, LocalRequest::Status);
        asked.abort();
    }

    #[tokio::test]
    async fn a_listener_lives_as_long_as_its_program_and_passes_refusals_on() {
        let place = tempfile::tempdir().unwrap();
        let mut calls = serve(place.path(), None).unwrap();
        let listen = "127.0.0.1:0".to_owned();
        let asked = tokio::spawn(ask(
            place.path().join(SOCKET),
            LocalRequest::Proxy { listen },
        ));
        let call = calls.recv().await.unwrap();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let (tell, told) = refusals();
        let reply = Reply {
            answer: LocalAnswer::Listening {
                address: "127.0.0.1:1".to_owned(),
            },
            kept: Some(Kept {
                guard: Guard::new(ListenerId(7), ended),
                refusals: told,
            }),
        };
        call.reply.send(reply).unwrap();
        let (mut stream, _) = asked.await.unwrap();
        let why = Refusal::new(RefusalCode::NotPermitted, "db: denied");
        tell.send(why.clone()).await.unwrap();
        let heard: LocalAnswer = frame::read(&mut stream, ANSWER_BYTES_MAX).await.unwrap();
        assert_eq!(heard, LocalAnswer::Refused(why));
        assert!(ends.try_recv().is_err());
        drop(stream);
        assert_eq!(ends.recv().await, Some(ListenerId(7)));
    }

    async fn ask(path: std::path::PathBuf, request: LocalRequest) -> (UnixStream, LocalAnswer) {
        let mut stream = UnixStream::connect(path).await.unwrap();
        frame::write_within(&mut stream, &request, EXCHANGE_TIME)
            .await
            .unwrap();
        let answer = frame::read(&mut stream, ANSWER_BYTES_MAX).await.unwrap();
        (stream, answer)
    }
}
