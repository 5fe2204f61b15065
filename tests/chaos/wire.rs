//! A network of its own for a part, where whoever runs this may make one: then its cable can be
//! pulled, and packets are lost instead of waiting in a proxy.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A namespace with one interface, whose other end is ours. Gone with the value.
pub struct Wire {
    namespace: String,
    /// Our end.
    interface: String,
    number: usize,
}

impl Wire {
    /// `None`: it cannot be done here.
    pub fn new(number: usize) -> Option<Self> {
        let process = std::process::id();
        let namespace = format!("bistro-chaos-{process}-{number}");
        // An interface's name has 15 characters at most.
        let interface = format!("bc{process:x}-{number}");
        let wire = Self { namespace, interface, number };
        wire.lay().then_some(wire)
    }

    fn lay(&self) -> bool {
        let (namespace, ours) = (self.namespace.as_str(), self.interface.as_str());
        let [here, there] = [1, 2].map(|end| format!("10.213.{}.{end}/30", self.number));
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
        IpAddr::from([10, 213, self.number as u8, 1])
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
