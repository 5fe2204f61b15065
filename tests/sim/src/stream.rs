//! The stream of results: stored before it says so, delivered at least once, and able to lose all
//! that it has.

use std::collections::BTreeMap;

use bistro_common::protocol::done::Done;

use crate::faults::SCHEDULER;
use crate::net::{Body, Envelope, NATS, Reply, Request};
use crate::queue::{SEC, Us};
use crate::world::{Event, World};

/// A delivery that nobody acknowledges is made again after so long.
const ACK_WAIT: Us = 60 * SEC;

#[derive(Default)]
pub struct Stream {
    messages: BTreeMap<u64, Message>,
    last: u64,
}

struct Message {
    done: Done,
    /// When it may be delivered (again).
    due: Us,
    acked: bool,
}

impl World {
    /// A message that is for the server itself.
    pub fn at_stream(&mut self, envelope: Envelope) {
        match envelope.body {
            Body::Request { id, request: Request::Done(done) } => {
                self.stream.last += 1;
                let message = Message { done, due: self.now, acked: false };
                self.stream.messages.insert(self.stream.last, message);
                self.reply(NATS, id, Reply::Stored);
                self.queue.plan(self.now, Event::Offer);
            }
            Body::Ack { seq } => {
                if let Some(message) = self.stream.messages.get_mut(&seq) {
                    message.acked = true;
                }
            }
            body => unreachable!("nobody sends {body:?} to the stream"),
        }
    }

    /// Delivers what is due to the scheduler, if there is one.
    pub fn offer(&mut self) {
        if !self.hosts[SCHEDULER].link.connected {
            return;
        }
        let (now, due) = (self.now, |m: &Message, now| !m.acked && m.due <= now);
        let ready = self.stream.messages.iter_mut().filter(|(_, message)| due(message, now));
        let mut deliveries = Vec::new();
        for (&seq, message) in ready {
            message.due = now + ACK_WAIT;
            deliveries.push(Body::Delivery { seq, done: message.done.clone() });
        }
        if !deliveries.is_empty() {
            self.queue.plan(now + ACK_WAIT, Event::Offer);
        }
        for body in deliveries {
            self.forward(Envelope { from: NATS, to: SCHEDULER, body });
        }
    }

    pub fn lose_stream(&mut self) {
        self.stream.messages.clear();
    }

    pub fn deliver_again(&mut self) {
        for message in self.stream.messages.values_mut() {
            message.acked = false;
            message.due = self.now;
        }
        self.offer();
    }
}
