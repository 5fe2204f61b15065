//! NATS as it is: at most once, in order for each pair, no word to who is gone, requests without
//! responders; and what lies below it: cuts in one direction or both, messages that were parked in
//! a socket and come late, and time until either end notices.

use rustc_hash::FxHashMap;

use bistro_common::protocol::assign::{Assign, AssignReply};
use bistro_common::protocol::control::{Control, ControlReply};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Heartbeat, HeartbeatReply};

use crate::faults::{Node, SCHEDULER};
use crate::queue::{MS, SEC, Us};
use crate::world::{Event, World};

/// The server itself, where streams are.
pub const NATS: Node = usize::MAX;

/// How long requests wait, as in the shells.
const TIMEOUT: Us = 3 * SEC;

/// Until a dead connection is noticed: two pings that nobody answered.
const DETECT: Us = 10 * SEC;

#[derive(Debug)]
pub enum Request {
    Heartbeat(Box<Heartbeat>),
    Assign(Assign),
    Control(Control),
    /// To the stream.
    Done(Done),
}

#[derive(Debug)]
pub enum Reply {
    Heartbeat(HeartbeatReply),
    Assign(AssignReply),
    Control(ControlReply),
    Stored,
    NoResponders,
    /// There was none in time.
    Timeout,
}

#[derive(Debug)]
pub enum Body {
    Request {
        id: u64,
        request: Request,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
    /// A scheduler says that it is there.
    Beacon,
    /// Of the stream, to be acknowledged.
    Delivery {
        seq: u64,
        done: Done,
    },
    Ack {
        seq: u64,
    },
}

#[derive(Debug)]
pub struct Envelope {
    pub from: Node,
    pub to: Node,
    pub body: Body,
}

/// One process's connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Nothing gets out to the server, or in from it.
    pub out_cut: bool,
    pub in_cut: bool,
    /// The client believes that it is connected; the server believes that it is subscribed.
    pub connected: bool,
    /// Messages that are somewhere on the way until the cut is over.
    parked_out: Vec<Envelope>,
    parked_in: Vec<Envelope>,
    /// Counts cuts, so that one that is over is not noticed later.
    cuts: u64,
}

/// Who waits for the reply to a request.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub node: Node,
    pub life: u64,
}

impl Link {
    /// A new process connects, if it can.
    pub fn renew(&mut self) {
        self.connected = !self.out_cut && !self.in_cut;
        // What was still to be noticed was of the connection before.
        self.cuts += 1;
    }
}

#[derive(Default)]
pub struct Net {
    pub waiting: FxHashMap<u64, Waiting>,
    requests: u64,
    /// When the last message of each pair arrives: none overtakes another.
    last: FxHashMap<(Node, Node), Us>,
}

impl World {
    /// Sends a request; its reply comes, if not in time as [`Reply::Timeout`]. `None`: the client
    /// knows that it is not connected, and nothing was sent.
    pub fn request(&mut self, from: Node, to: Node, request: Request) -> Option<u64> {
        self.hosts[from].link.connected.then(|| {
            self.net.requests += 1;
            let id = self.net.requests;
            self.net.waiting.insert(id, Waiting { node: from, life: self.hosts[from].life });
            self.queue.plan(self.now + TIMEOUT, Event::Timeout(id));
            self.send(Envelope { from, to, body: Body::Request { id, request } });
            id
        })
    }

    pub fn reply(&mut self, from: Node, id: u64, reply: Reply) {
        if let Some(waiting) = self.net.waiting.get(&id) {
            let to = waiting.node;
            self.send(Envelope { from, to, body: Body::Reply { id, reply } });
        }
    }

    /// Towards the server.
    pub fn send(&mut self, envelope: Envelope) {
        let from = envelope.from;
        if from == NATS {
            return self.forward(envelope);
        }
        if from == SCHEDULER
            && let Some(isolated) = &mut self.scheduler.isolated
        {
            return isolated.sent.push(envelope);
        }
        let link = &mut self.hosts[from].link;
        if !link.connected {
            return;
        }
        if link.out_cut {
            // In a socket's buffer it may come through when the cut is over, or not at all.
            if self.rng.bool() {
                link.parked_out.push(envelope);
            }
            return;
        }
        let at = self.arrival(from, NATS);
        self.queue.plan(at, Event::AtNats(Box::new(envelope)));
    }

    /// What has reached the server goes on to whom it is for.
    pub fn forward(&mut self, envelope: Envelope) {
        let to = envelope.to;
        if to == NATS {
            return self.at_stream(envelope);
        }
        let isolated = to == SCHEDULER && self.scheduler.isolated.is_some();
        let link = &mut self.hosts[to].link;
        if !link.connected || isolated {
            if let Body::Request { id, .. } = envelope.body {
                self.reply(NATS, id, Reply::NoResponders);
            }
            return;
        }
        if link.in_cut {
            if self.rng.bool() {
                link.parked_in.push(envelope);
            }
            return;
        }
        let at = self.arrival(NATS, to);
        self.queue.plan(at, Event::Arrives(self.hosts[to].life, Box::new(envelope)));
    }

    fn arrival(&mut self, from: Node, to: Node) -> Us {
        let node = if from == NATS { to } else { from };
        let slow = self.now < self.hosts[node].slow_until;
        let latency = match self.rng.u8(0..100) {
            _ if slow && self.rng.bool() => self.rng.u64(0..15 * SEC),
            0 => self.rng.u64(MS..2 * SEC),
            _ => self.rng.u64(100..2 * MS),
        };
        let last = self.net.last.entry((from, to)).or_default();
        *last = (self.now + latency).max(*last + 1);
        *last
    }

    pub fn cut(&mut self, node: Node, out: bool, into: bool) {
        let link = &mut self.hosts[node].link;
        link.out_cut |= out;
        link.in_cut |= into;
        link.cuts += 1;
        let cuts = link.cuts;
        self.queue.plan(self.now + DETECT, Event::CutNoticed(node, cuts));
    }

    /// Both ends have noticed: the connection is gone, and what was on its way into it.
    pub fn cut_noticed(&mut self, node: Node, cuts: u64) {
        let link = &mut self.hosts[node].link;
        if link.cuts == cuts {
            link.connected = false;
            link.parked_in.clear();
        }
    }

    pub fn heal(&mut self, node: Node) {
        let link = &mut self.hosts[node].link;
        link.out_cut = false;
        link.in_cut = false;
        link.cuts += 1;
        let (out, into) =
            (std::mem::take(&mut link.parked_out), std::mem::take(&mut link.parked_in));
        for envelope in out {
            // What lay in the buffers of an old connection may come after what the new one sends.
            let at = match self.rng.bool() {
                true => self.arrival(node, NATS),
                false => self.now + self.rng.u64(0..10 * SEC),
            };
            self.queue.plan(at, Event::AtNats(Box::new(envelope)));
        }
        for envelope in into {
            let at = self.arrival(NATS, node);
            self.queue.plan(at, Event::Arrives(self.hosts[node].life, Box::new(envelope)));
        }
        if !self.hosts[node].link.connected {
            let at = self.now + self.rng.u64(100 * MS..2 * SEC);
            self.queue.plan(at, Event::Connects(node, self.hosts[node].life));
        }
    }

    /// A process is gone. If nobody said goodbye for it, the server takes its time to notice.
    pub fn disconnect(&mut self, node: Node, abruptly: bool) {
        let link = &mut self.hosts[node].link;
        if abruptly {
            link.cuts += 1;
            let cuts = link.cuts;
            self.queue.plan(self.now + DETECT, Event::CutNoticed(node, cuts));
        } else {
            link.connected = false;
        }
        link.parked_in.clear();
    }
}
