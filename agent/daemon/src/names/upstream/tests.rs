use cardea_node::names::{found, query};
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_server_that_is_gone_is_passed_over_and_the_one_that_answered_is_asked_first() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = gone.local_addr().unwrap();
    drop(gone);
    let (good, mut seen) = server(|query| vec![answer(query, 0)]).await;
    let servers = Servers::new(vec![at, good]);
    assert_eq!(ask(&servers).await, Some(Vec::new()));
    assert_eq!(servers.first.load(Ordering::Relaxed), 1);
    assert_eq!(ask(&servers).await, Some(Vec::new()));
    let first = seen.recv().await.unwrap();
    let second = seen.recv().await.unwrap();
    assert_ne!(first, second, "a number that can be guessed");
}

#[tokio::test]
async fn who_refuses_is_not_the_last_one_to_be_asked() {
    let (refuses, _seen) = server(|query| vec![answer(query, 5)]).await;
    let (good, _also) = server(|query| vec![answer(query, 0)]).await;
    let servers = Servers::new(vec![refuses, good]);
    assert_eq!(ask(&servers).await, Some(Vec::new()));
    let alone = Servers::new(vec![refuses]);
    let asked = query("other.example", false, 7).unwrap();
    let refused = alone.ask(&asked, Carried::Datagram).await.unwrap();
    assert_eq!((id(&refused), refused[3] & 15), (Some(7), 5));
}

#[tokio::test]
async fn what_does_not_answer_the_question_is_not_taken() {
    let (forger, _seen) = server(|asked| {
        let right = id(asked).unwrap();
        let other = query("another.example", false, right).unwrap();
        let number = with_id(asked, right.wrapping_add(1));
        vec![
            answer(&other, 0),
            answer(&number, 0),
            asked.to_vec(),
            answer(asked, 3),
        ]
    })
    .await;
    let asked = query("other.example", false, 7).unwrap();
    let servers = Servers::new(vec![forger]);
    let heard = servers.ask(&asked, Carried::Datagram).await.unwrap();
    assert_eq!(heard[3] & 15, 3);
}

#[tokio::test]
async fn a_stream_stays_a_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let query = read(&mut stream).await.unwrap();
        write(&mut stream, &answer(&query, 0)).await.unwrap();
    });
    let asked = query("other.example", true, 7).unwrap();
    let servers = Servers::new(vec![at]);
    let heard = servers.ask(&asked, Carried::Stream).await.unwrap();
    assert_eq!(heard, answer(&asked, 0));
    assert_eq!(Servers::default().ask(&asked, Carried::Stream).await, None);
}

async fn ask(servers: &Servers) -> Option<Vec<IpAddr>> {
    let query = query("other.example", false, 7).unwrap();
    let heard = servers.ask(&query, Carried::Datagram).await?;
    assert_eq!(id(&heard), Some(7));
    found(&heard)
}

/// A name server that says what `answers` makes of a query; the numbers of queries come out.
async fn server(
    answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, tokio::sync::mpsc::Receiver<u16>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let (seen, numbers) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let query = &buffer[..len];
            seen.try_send(id(query).unwrap()).ok();
            for answer in answers(query) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (at, numbers)
}

/// A query made an answer with nothing in it.
fn answer(query: &[u8], code: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = code;
    bytes
}
