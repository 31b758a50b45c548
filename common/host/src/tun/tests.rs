//! With a real kernel, in a namespace of this thread's own; they need root.

#![expect(
    clippy::disallowed_types,
    reason = "a test uses sockets as any program does"
)]

use std::{
    io::IoSlice,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use cardea_e2e::needs;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

#[test]
fn what_is_routed_to_an_interface_can_be_read_and_answered() {
    if !needs::root_and(&[]) {
        return;
    }
    in_namespace(|| {
        let tun = Tun::open("cardea-test").unwrap();
        let mut network = Network::open().unwrap();
        let index = network.index(tun.name()).unwrap();
        network.set_up(index, 1_400, 61_440).unwrap();
        let (own, app) = ([100, 64, 0, 1].into(), [100, 64, 0, 9].into());
        let own6: IpAddr = "fd00::1".parse().unwrap();
        network.add_address(index, own).unwrap();
        network.add_address(index, own6).unwrap();
        let range = Prefix {
            address: [100, 64, 0, 0].into(),
            bits: 10,
        };
        for _ in 0..2 {
            network.add_rule(range, 7_443, 5_200).unwrap();
            network
                .add_route((index, 7_443), Prefix::host(app), Some(own))
                .unwrap();
        }
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket.send_to(b"hello", (app, 53)).unwrap();
        let mut buffer = [0; 2_000];
        let packet = loop {
            match tun.read(&mut buffer) {
                // The kernel announces itself over IPv6.
                Ok(len) if buffer[10] >> 4 == 4 => break buffer[..len].to_vec(),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(packet.ends_with(b"hello"));
        let mut answer = packet.clone();
        answer[..10].fill(0);
        answer[10 + 12..10 + 16].copy_from_slice(&packet[10 + 16..10 + 20]);
        answer[10 + 16..10 + 20].copy_from_slice(&packet[10 + 12..10 + 16]);
        answer[30..32].copy_from_slice(&packet[32..34]);
        answer[32..34].copy_from_slice(&packet[30..32]);
        // No checksum is as good as a right one over IPv4.
        answer[36..38].fill(0);
        let (head, payload) = answer.split_at(38);
        tun.write(&[IoSlice::new(head), IoSlice::new(payload)])
            .unwrap();
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"hello"[..], (app, 53).into()));
        network
            .remove_route(index, 7_443, Prefix::host(app))
            .unwrap();
        network
            .remove_route(index, 7_443, Prefix::host(app))
            .unwrap();
        assert!(
            socket.send_to(b"hello", (app, 53)).is_err(),
            "no route is left"
        );
        for _ in 0..2 {
            network.remove_rule(range, 7_443, 5_200).unwrap();
        }
        assert!(matches!(
            Tun::open("cardea-test").err(),
            Some(TunError::Busy(_))
        ));
    });
}

#[test]
fn what_changes_about_the_network_is_heard_of_once() {
    if !needs::root_and(&[]) {
        return;
    }
    in_namespace(|| {
        let mut changes = crate::addresses::Changes::listen().unwrap();
        assert!(!changes.take());
        let mut network = Network::open().unwrap();
        let loopback = network.index("lo").unwrap();
        let address = [192, 0, 2, 7].into();
        network.add_address(loopback, address).unwrap();
        assert!(changes.take());
        assert!(!changes.take());
        network.set_up(loopback, 65_536, 65_536).unwrap();
        assert!(changes.take());
        let to = Prefix::host([192, 0, 2, 9].into());
        network.add_route((loopback, 7_443), to, None).unwrap();
        assert!(changes.take());
        assert!(!changes.take());
    });
}

/// Runs `work` on a thread in a network of its own.
fn in_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: this thread alone moves; it shares no file descriptors that it closes, and ends here.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        work();
    });
    thread.join().unwrap();
}
