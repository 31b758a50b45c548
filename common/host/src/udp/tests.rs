use std::{net::Ipv4Addr, time::Duration};

use mio::{Events, Poll};

use super::*;

#[test]
fn datagrams_of_every_size_arrive_whole() {
    let (sender, mut receiver) = pair();
    for size in [0, 1, 7, 8, 1_199, 1_200, 1_472, 9_000, 65_506, 65_507] {
        let sent: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
        assert_eq!(
            sender.send(receiver.local_address(), None, &sent).unwrap(),
            size
        );
        let got = receive(&mut receiver, 1);
        assert_eq!(got, [sent], "{size}");
    }
}

#[test]
fn a_segmented_send_arrives_as_its_datagrams_in_order() {
    let (sender, mut receiver) = pair();
    // More than one system call may carry (64 segments), and a short last one.
    let sent: Vec<u8> = (0..100 * 1_200 + 17_usize)
        .map(|at| (at / 1_200).to_le_bytes()[0])
        .collect();
    let done = sender
        .send(receiver.local_address(), Some(1_200), &sent)
        .unwrap();
    assert_eq!(done, sent.len());
    let got = receive(&mut receiver, 101);
    let want: Vec<&[u8]> = sent.chunks(1_200).collect();
    assert_eq!(got, want);
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    let any = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut connected = UdpSocket::connect(any.local_address()).unwrap();
    let connected_at =
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), connected.local_address().port());
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    stranger.send(connected_at, None, b"stranger").unwrap();
    any.send(connected_at, None, b"peer").unwrap();
    assert_eq!(receive(&mut connected, 1), [b"peer".to_vec()]);
}

#[test]
fn a_port_in_use_is_an_error_that_says_so() {
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let error = UdpSocket::bind(first.local_address()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

fn pair() -> (UdpSocket, UdpSocket) {
    let open = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    (open(), open())
}

fn receive(socket: &mut UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut poll = Poll::new().unwrap();
    poll.registry()
        .register(socket, Token(0), Interest::READABLE)
        .unwrap();
    let mut events = Events::with_capacity(4);
    let mut batch = Received::default();
    let mut got = Vec::new();
    while got.len() < count {
        poll.poll(&mut events, Some(Duration::from_secs(5)))
            .unwrap();
        assert!(!events.is_empty(), "only {} of {count} arrived", got.len());
        while socket.receive(&mut batch).is_ok() {
            got.extend(batch.datagrams().map(|(_, bytes)| bytes.to_vec()));
        }
    }
    poll.registry().deregister(socket).unwrap();
    got
}
