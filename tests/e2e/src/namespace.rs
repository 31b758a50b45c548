//! Hosts, routers and NATs made of network namespaces. They need root, and go when dropped.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::program::{Program, command, run_ok};

/// A network namespace of one test.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// What keeps an `/etc` of its own, if it has one.
    own_etc: Option<Program>,
}

impl Namespace {
    /// Makes a namespace whose loopback is up.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub fn new(test: &str, host: &str) -> Result<Self> {
        let name = format!("cardea-{}-{test}-{host}", std::process::id());
        run_ok(command("ip", ["netns", "add", &name]))?;
        let namespace = Self {
            name,
            own_etc: None,
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Connects this namespace to another: `here` and `there` are addresses with a prefix length.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link(
        &self,
        interface: &str,
        here: &str,
        other: &Self,
        peer: &str,
        there: &str,
    ) -> Result<()> {
        self.ip(&format!(
            "link add {interface} type veth peer name {peer} netns {}",
            other.name
        ))?;
        self.ip(&format!("addr add {here} dev {interface}"))?;
        other.ip(&format!("addr add {there} dev {peer}"))?;
        self.ip(&format!("link set {interface} up"))?;
        other.ip(&format!("link set {peer} up"))
    }

    /// Sends everything that is not local to `gateway`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn route(&self, gateway: &str) -> Result<()> {
        self.ip(&format!("route add default via {gateway}"))
    }

    /// Gives programs that are started inside from here on an `/etc` of their own: a copy in `folder`,
    /// where whatever they do to it is seen, and where it harms nobody.
    ///
    /// # Errors
    /// Without root.
    pub fn with_own_etc(&mut self, folder: &Path) -> Result<()> {
        let words = ["-a".into(), "/etc".into(), folder.as_os_str().to_owned()];
        run_ok(command("cp", words))?;
        let hold = "mount --bind \"$0\" /etc && echo held && exec tail -f /dev/null";
        let words = ["--mount", "sh", "-c", hold].map(Into::into);
        let folder = folder.as_os_str().to_owned();
        let held = self.command("unshare", words.into_iter().chain([folder]));
        let mut held = Program::start("own etc", held)?;
        held.wait_for("held")?;
        self.own_etc = Some(held);
        Ok(())
    }

    /// Has programs that are started inside from here on ask `server` for names.
    ///
    /// # Errors
    /// Without root.
    pub fn ask_names_of(&self, server: &str) -> Result<()> {
        let own = self.settings();
        fs::create_dir_all(&own)?;
        let file = own.join("resolv.conf");
        Ok(fs::write(file, format!("nameserver {server}\n"))?)
    }

    /// The folder whose files `ip netns exec` puts in the place of those in `/etc`.
    ///
    /// Source: ip-netns(8).
    fn settings(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    /// Makes this namespace a NAT router: what leaves through `outside` carries its address, and
    /// nothing comes in that was not asked for.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn masquerade(&self, outside: &str) -> Result<()> {
        run_ok(self.command("sysctl", ["-qw", "net.ipv4.ip_forward=1"]))?;
        let rules = format!(
            "table ip nat {{\n chain out {{\n type nat hook postrouting priority 100\n \
             oifname \"{outside}\" masquerade\n }}\n}}\n\
             table ip guard {{\n chain in {{\n type filter hook forward priority 0; policy drop;\n \
             ct state established,related accept\n oifname \"{outside}\" accept\n }}\n}}\n"
        );
        self.nft(&rules)
    }

    /// Moves the calling thread into this namespace, for as long as it lives.
    ///
    /// # Errors
    /// Without root.
    pub fn enter(&self) -> Result<()> {
        let namespace = fs::File::open(Path::new("/run/netns").join(&self.name))?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        Ok(())
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let arguments = ["-n", &self.name]
            .into_iter()
            .chain(arguments.split_whitespace());
        run_ok(command("ip", arguments)).map(drop)
    }

    /// Runs `work` on a thread inside; threads that it starts and sockets that it opens stay there.
    ///
    /// # Errors
    /// As `work` says, or when the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow::anyhow!("what ran inside panicked"))?
        })
    }

    /// A command that runs inside.
    pub fn command<S: Into<std::ffi::OsString>>(
        &self,
        program: impl Into<std::ffi::OsString>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut inside = match &self.own_etc {
            Some(held) => {
                let id = held.id().to_string();
                command("nsenter", ["-t", &id, "--mount", "--net", "--"])
            }
            None => command("ip", ["netns", "exec", &self.name]),
        };
        inside
            .arg(program.into())
            .args(arguments.into_iter().map(Into::into));
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(run_ok(command("ip", ["netns", "del", &self.name])));
        drop(fs::remove_dir_all(self.settings()));
    }
}
