//! A stranger who probes the controller's port without a pause, from before its first start to after
//! its last: not one packet comes back.
#![expect(
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "a stranger uses sockets as he likes, and a test tells what he sent"
)]

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    dark::probe_a_life,
    deployment::{ControllerOptions, Deployment},
    needs,
    program::{PATIENCE, free_port, now},
    stranger,
};
use rustix::process::Signal;

/// Datagrams that are sent at once, before it is listened again.
const BURST: u64 = 64;

#[test]
fn a_stranger_hears_nothing_from_the_first_moment_of_a_controller_to_its_last() {
    in_every_phase().unwrap();
}

#[test]
fn nothing_on_a_host_of_ours_answers_a_stranger_in_any_phase_of_its_life() {
    if needs::root_and(&["ip", "nft", "mount"]) {
        let (probed, ()) = probe_a_life(PROBES, |_| Ok(())).unwrap();
        eprintln!("{probed:?}");
        assert_eq!(probed.answers, 0);
    }
}

/// Probes of a whole host; by hand it is a hundred times as many.
const PROBES: u64 = 100_000;

fn in_every_phase() -> Result<()> {
    let mut world = Deployment::new()?;
    let port = free_port()?;
    let stranger = UdpSocket::bind("127.0.0.1:0")?;
    stranger.set_read_timeout(Some(Duration::from_millis(1)))?;
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let probing = scope.spawn(|| probe(&stranger, port, &is_over, &sent));
        let lived = live(&mut world, port, &sent);
        is_over.store(true, Ordering::Relaxed);
        let answers = probing.join().ok().context("the stranger panicked")??;
        lived?;
        ensure!(answers == 0, "{answers} answers to a stranger");
        Ok(())
    })
}

/// A controller starts, serves a node, is killed and starts again, and leaves in order while a node is
/// connected; the stranger gets through with its probes in each of these.
fn live(world: &mut Deployment, port: u16, sent: &AtomicU64) -> Result<()> {
    let options = ControllerOptions {
        port,
        ..Default::default()
    };
    world.start_controller(&options)?;
    let _first = world.start_connector(None, "first", "default")?;
    probed(sent)?;
    world.controller()?.signal(Signal::KILL)?;
    world.controller()?.wait()?;
    probed(sent)?;
    world.start_controller(&options)?;
    let _second = world.start_connector(None, "second", "default")?;
    probed(sent)?;
    // Who is not answered is counted all the same.
    let status: serde_json::Value = serde_json::from_str(&world.ctl("status -o json")?)?;
    for kind in ["unknown", "opened"] {
        let count = status.pointer(&format!("/knocks/{kind}"));
        let count = count.and_then(serde_json::Value::as_u64);
        ensure!(count > Some(0), "{kind}: {status}");
    }
    world.stop_controller()
}

/// Waits until the stranger has sent all of its probes some times more.
fn probed(sent: &AtomicU64) -> Result<()> {
    let until = sent.load(Ordering::Relaxed) + 40 * BURST;
    let deadline = now() + PATIENCE;
    while sent.load(Ordering::Relaxed) < until {
        ensure!(now() < deadline, "the stranger is stuck");
        thread::yield_now();
    }
    Ok(())
}

/// Sends what QUIC would answer, and garbage, and counts what comes back.
fn probe(socket: &UdpSocket, port: u16, is_over: &AtomicBool, sent: &AtomicU64) -> Result<u64> {
    let mut answers = 0;
    let mut buffer = [0; 2_048];
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            // A port where nobody listens says so once in a while.
            drop(socket.send_to(&stranger::probe(number), ("127.0.0.1", port)));
        }
        while socket.recv_from(&mut buffer).is_ok() {
            answers += 1;
        }
    }
    Ok(answers)
}
