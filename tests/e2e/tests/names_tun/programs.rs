//! Unmodified programs, by name.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::program::{run, run_ok};

use crate::{PAGE, world::World};

impl World {
    pub(crate) fn applications(&self) -> Result<()> {
        for url in [
            "http://wiki.corp.example/",
            "http://docs.elsewhere.example/",
        ] {
            let words = ["-sS", "--fail", "--max-time", "30", url];
            let page = run_ok(self.on_laptop("curl", &words))?;
            ensure!(page == PAGE, "{url}: {page:?}");
        }
        let rows = "select sum(n) from generate_series(1, 1000) as n";
        let words = ["-h", "db.corp.example", "-U", "postgres", "-tA", "-c", rows];
        let sum = run_ok(self.on_laptop("psql", &words))?;
        ensure!(sum.trim() == "500500", "{sum}");
        self.ssh()?;
        let ping = ["-c", "2", "-i", "0.2", "-W", "5", "wiki.corp.example"];
        run_ok(self.on_laptop("ping", &ping))?;
        for carrier in ["+notcp", "+tcp"] {
            let words = [
                "+short",
                carrier,
                "+tries=5",
                "@ns.corp.example",
                "answer.example",
            ];
            let answer = self.dig(&words)?;
            ensure!(answer == "10.1.2.3\n", "{carrier}: {answer:?}");
        }
        self.iperf3()
    }

    /// A command, and a file there and back.
    fn ssh(&self) -> Result<()> {
        let folder = self.deployment.path("sshd");
        let place = |name| folder.join(name).display().to_string();
        let key = place("key");
        let options = [
            "-F",
            "none",
            "-i",
            &key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ];
        let with = |program: &str, words: [&str; 2]| {
            let words: Vec<&str> = options.into_iter().chain(words).collect();
            run_ok(self.on_laptop(program, &words))
        };
        let said = with("ssh", ["root@shell.corp.example", "echo over there"])?;
        ensure!(said == "over there\n", "{said}");

        let lines = (0..FILE_LINES).map(|line| format!("line {line:09}\n"));
        let text: String = lines.collect();
        fs::write(place("file"), &text)?;
        let over_there = |name| format!("root@shell.corp.example:{}", place(name));
        for (from, to) in [
            (place("file"), over_there("there")),
            (over_there("there"), place("back")),
        ] {
            with("scp", [&from, &to])?;
        }
        let is_same = fs::read_to_string(place("back"))? == text;
        ensure!(is_same, "another file came back");
        fs::remove_file(place("there"))?;
        Ok(fs::remove_file(place("back"))?)
    }

    /// TCP in both directions, and UDP.
    fn iperf3(&self) -> Result<()> {
        let count = IPERF_BYTES.to_string();
        for more in [
            &["--bytes", &count][..],
            &["--bytes", &count, "--reverse"],
            &["--udp", "--bitrate", "10M", "--time", "1"],
        ] {
            let words = ["--client", "speed.corp.example", "--json"];
            let words: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
            let said = run_ok(self.on_laptop("iperf3", &words))?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            let figure = |part: &str, name: &str| {
                let part = said.get("end").and_then(|end| end.get(part));
                let figure = part.and_then(|part| part.get(name));
                figure.and_then(serde_json::Value::as_u64)
            };
            if more.contains(&"--udp") {
                let sent = figure("sum", "packets").context("no packets")?;
                let lost = figure("sum", "lost_packets").context("no packets")?;
                // A machine that does much else loses some.
                ensure!(sent > 0 && lost * 2 < sent, "{lost} of {sent} are lost");
            } else {
                let sent = figure("sum_sent", "bytes").context("no bytes")?;
                let came = figure("sum_received", "bytes").context("no bytes")?;
                // It stops to count when all are sent, of which some are on their way.
                let is_all = sent >= IPERF_BYTES && came * 2 > sent;
                ensure!(is_all, "{more:?}: {came} of {sent}");
            }
        }
        Ok(())
    }

    /// A browser loads a page by one name, and by another the script that it runs in it.
    pub(crate) fn browser(&self) -> Result<()> {
        let folder = self.deployment.path("browser").display().to_string();
        let kept = format!("--user-data-dir={folder}");
        let url = format!("http://wiki.corp.example/{}", SHOWN.0);
        // It refuses to run as root with its sandbox.
        let words = ["--headless", "--no-sandbox", "--dump-dom", &kept, &url];
        let mut chromium = self.on_laptop("chromium", &words);
        chromium.env("HOME", &folder);
        let shown = run_ok(chromium)?;
        let text = "wiki.corp.example is shown as number 42";
        ensure!(shown.contains(text), "{shown}");
        Ok(())
    }

    /// Every kind of answer, and which of them cost a question to others.
    pub(crate) fn answers(&self) -> Result<()> {
        let before = self.asked()?;
        for words in [
            &["wiki.corp.example", "A"][..],
            &["+tcp", "wiki.corp.example", "AAAA"],
            &["wIkI.CORP.example", "HTTPS"],
            &["payroll.corp.example"],
            &["+tcp", "payroll.corp.example", "TXT"],
            &["a.docs.elsewhere.example"],
            &["-x", "100.64.0.99"],
        ] {
            let said = self.dig(words)?;
            let is_found = words
                .iter()
                .any(|word| word.starts_with("wiki") || word.starts_with("wIkI"));
            let expected = if is_found { "NOERROR" } else { "NXDOMAIN" };
            ensure!(said.contains(expected), "{words:?}: {said}");
            ensure!(!is_found || said.contains("flags: qr aa rd ra"), "{said}");
        }
        ensure!(self.asked()? == before, "a question about ours went out");
        let address = self.dig(&["+short", "wiki.corp.example"])?;
        let back = self.dig(&["+short", "-x", address.trim()])?;
        ensure!(back == "docs.elsewhere.example.\n", "{back}");
        for more in [
            &["+short", "other.example"][..],
            &["+short", "+tcp", "other.example"],
        ] {
            let found = self.dig(more)?;
            ensure!(found == "192.0.2.9\n", "{found}");
        }
        ensure!(self.asked()? > before, "nobody was asked");
        // Not by a neighbour who knows the address.
        let stub = self.file()?;
        let stub = stub
            .lines()
            .find_map(|line| line.strip_prefix("nameserver "));
        let stub = stub.context("no stub")?;
        self.hosts
            .controller
            .ip(&format!("route add {stub}/32 via 192.168.1.2"))?;
        for carrier in ["+notcp", "+tcp"] {
            let server = format!("@{stub}");
            let words = [&server, carrier, "+tries=1", "+time=2", "wiki.corp.example"];
            let heard = run(self.hosts.controller.command("dig", words))?;
            ensure!(!heard.status.success(), "a neighbour is answered");
        }
        Ok(())
    }

    /// Packets to name servers of the network.
    fn asked(&self) -> Result<u64> {
        let words = ["list", "counter", "inet", "watch", "names"];
        let text = run_ok(self.on_laptop("nft", &words))?;
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets");
        let count = words.next().context("no count")?;
        Ok(count.parse()?)
    }
}

/// A page, which is complete when its script has run.
pub(crate) const SHOWN: (&str, &str) = (
    "shown.html",
    "<!doctype html><p id=shown></p><script src=http://docs.elsewhere.example/shown.js></script>",
);

/// The script.
pub(crate) const SCRIPT: (&str, &str) = (
    "shown.js",
    "shown.textContent = `${location.host} is shown as number ${6 * 7}`;",
);

/// A file of 4.5 MB.
const FILE_LINES: u32 = 300_000;

/// How much iperf3 moves in each direction.
const IPERF_BYTES: u64 = 20_000_000;
