//! What is pushed through each contestant: iperf3 and ping, as anybody would.

use anyhow::{Context, Result, bail, ensure};
use cardea_e2e::program::{Program, run, run_ok};

use super::{Hosts, PORT};
use crate::{load::cpu_seconds, report::percentile};

/// Seconds of one transfer.
const SECONDS: &str = "4";

/// Tries of one transfer.
const TRIES: usize = 3;

/// One contestant's round.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    pub(super) hosts: &'a Hosts,
    pub(super) address: &'a str,
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) tcp1: Stream,
    pub(super) tcp4: Stream,
    pub(super) back: Stream,
    pub(super) udp_small: f64,
    pub(super) udp_large: f64,
    /// p50 and p99 in microseconds.
    pub(super) idle: (f64, f64),
    pub(super) loaded: (f64, f64),
}

/// One transfer over TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) gbit_s: f64,
    pub(super) cpu_s_per_gb: f64,
    pub(super) retransmits: f64,
}

impl Figures<'_> {
    pub(super) fn measure(&self) -> Result<Measured> {
        // Opens the tunnel, where there is one to open.
        self.ping("10", "0.05")?;
        Ok(Measured {
            idle: self.ping("500", "0.002")?,
            tcp1: self.tcp(&[])?,
            tcp4: self.tcp(&["-P", "4"])?,
            back: self.tcp(&["-R"])?,
            udp_small: self.udp("64")?,
            udp_large: self.udp("1280")?,
            loaded: self.loaded()?,
        })
    }

    fn iperf(&self, more: &[&str]) -> Result<serde_json::Value> {
        let port = PORT.to_string();
        let fixed = [
            "-c",
            self.address,
            "-p",
            &port,
            "-J",
            "--connect-timeout",
            "5000",
        ];
        let words = fixed.into_iter().chain(more.iter().copied());
        let words: Vec<&str> = words.collect();
        let mut said = String::new();
        // Under full load some lose even the words with which iperf3 begins and ends.
        for _ in 0..TRIES {
            let output = run(self.hosts.client.command("iperf3", words.iter().copied()))?;
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            let answer: serde_json::Value = serde_json::from_str(&said)?;
            if output.status.success() && answer.get("error").is_none() {
                return Ok(answer);
            }
        }
        bail!("iperf3 {words:?} fails: {said}")
    }

    fn tcp(&self, more: &[&str]) -> Result<Stream> {
        let before = cpu_seconds()?;
        let answer = self.iperf(&[&["-t", SECONDS], more].concat())?;
        let cpu = cpu_seconds()? - before;
        let bytes = number(&answer, "/end/sum_received/bytes")?;
        Ok(Stream {
            gbit_s: number(&answer, "/end/sum_received/bits_per_second")? / 1e9,
            cpu_s_per_gb: cpu / (bytes / 1e9),
            retransmits: number(&answer, "/end/sum_sent/retransmits")?,
        })
    }

    /// Thousands of datagrams that arrive in a second, of as many as the client can send.
    fn udp(&self, size: &str) -> Result<f64> {
        let more = [
            "-u",
            "-b",
            "0",
            "-l",
            size,
            "-t",
            SECONDS,
            "--get-server-output",
        ];
        let answer = self.iperf(&more)?;
        let field = |name: &str| number(&answer, &format!("/end/sum/{name}"));
        let arrived = field("packets")? - field("lost_packets")?;
        Ok(arrived / field("seconds")? / 1e3)
    }

    fn loaded(&self) -> Result<(f64, f64)> {
        let port = PORT.to_string();
        let words = ["-c", self.address, "-p", &port, "-t", "60", "--forceflush"];
        let mut load = Program::start("iperf3", self.hosts.client.command("iperf3", words))?;
        load.wait_for("bits/sec")?;
        let result = self.ping("300", "0.005");
        load.signal(rustix::process::Signal::INT)?;
        load.wait()?;
        result
    }

    /// p50 and p99 of `count` round trips, in microseconds.
    fn ping(&self, count: &str, interval: &str) -> Result<(f64, f64)> {
        let words = ["-n", "-c", count, "-i", interval, "-W", "5", self.address];
        let text = run_ok(self.hosts.client.command("ping", words))?;
        let times: Vec<f64> = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("time="))
            .filter_map(|time| time.parse::<f64>().ok())
            .map(|ms| ms * 1e3)
            .collect();
        ensure!(!times.is_empty(), "no answer to a ping");
        Ok((percentile(&times, 0.5), percentile(&times, 0.99)))
    }
}

/// A figure of what iperf3 said.
fn number(answer: &serde_json::Value, place: &str) -> Result<f64> {
    let value = answer.pointer(place).and_then(serde_json::Value::as_f64);
    value.with_context(|| format!("iperf3 says no {place}"))
}
