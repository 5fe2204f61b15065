//! A network of its own for a part, where whoever runs this may make one: then its cable can be
//! pulled, and packets are lost instead of waiting in a proxy.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

const PREFIX: &str = "bistro-chaos-";

/// A namespace with one interface, whose other end is ours. Gone with the value.
pub struct Wire {
    namespace: String,
    /// Our end.
    interface: String,
    /// Of two addresses. Runs beside each other have different ones, as a rule.
    network: [u8; 4],
}

impl Wire {
    /// Removes what runs have left that were killed.
    pub fn clear() {
        let Ok(list) = Command::new("ip").args(["netns", "list"]).output() else { return };
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        for namespace in list.split_whitespace().filter(|word| word.starts_with(PREFIX)) {
            let process = namespace[PREFIX.len()..].split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                ip(&["netns", "del", namespace]);
            }
        }
    }

    /// `None`: it cannot be done here.
    pub fn new(number: usize) -> Option<Self> {
        let process = std::process::id();
        let [.., high, low] = process.to_be_bytes();
        let network = [10, 128 | high, low, number as u8 * 4];
        let namespace = format!("{PREFIX}{process}-{number}");
        // An interface's name has 15 characters at most.
        let interface = format!("bc{process:x}-{number}");
        let wire = Self { namespace, interface, network };
        wire.lay().then_some(wire)
    }

    fn lay(&self) -> bool {
        let (namespace, ours) = (self.namespace.as_str(), self.interface.as_str());
        let [here, there] = [1, 2].map(|end| format!("{}/30", self.end(end)));
        let steps: [&[&str]; 6] = [
            &["netns", "add", namespace],
            &["link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", namespace],
            &["addr", "add", &here, "dev", ours],
            &["link", "set", ours, "up"],
            &["-n", namespace, "addr", "add", &there, "dev", "eth0"],
            &["-n", namespace, "link", "set", "eth0", "up"],
        ];
        steps.iter().all(|step| ip(step))
    }

    /// Where the part reaches us.
    pub fn address(&self) -> IpAddr {
        self.end(1)
    }

    fn end(&self, end: u8) -> IpAddr {
        let [a, b, c, d] = self.network;
        IpAddr::from([a, b, c, d + end])
    }

    pub fn plug(&self, in_it: bool) {
        ip(&["link", "set", &self.interface, if in_it { "up" } else { "down" }]);
    }

    /// Runs the program in there, as the same process.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(args: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
