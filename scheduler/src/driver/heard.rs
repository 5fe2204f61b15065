//! What workers and other schedulers say of themselves, and what this one says of itself.

use bistro_common::protocol::heartbeat::{
    Heartbeat, HeartbeatAnswer, HeartbeatReply, RefusedReason, SchedulerBeacon,
};
use bistro_common::protocol::{VERSION, decode, encode};
use bistro_core::{Identity, Input, Rival};

use super::{Driver, SchedulerError};

impl Driver {
    /// Tells workers that this scheduler is here, so that none waits for its next heartbeat.
    pub(super) async fn announce(&self) {
        let Identity { cell, scheduler, epoch } = self.identity;
        let beacon = SchedulerBeacon { v: VERSION, cell, scheduler, epoch };
        self.publish(self.options.cell.scheduler_beacon(), encode(&beacon)).await;
    }

    pub(super) async fn on_heartbeat(
        &mut self,
        message: async_nats::Message,
    ) -> Result<(), SchedulerError> {
        let Some(reply) = message.reply else {
            return Ok(());
        };
        match decode::<Heartbeat>(&message.payload) {
            Ok(heartbeat) => {
                if let Some(rival) = self.identity.deposed_by(&heartbeat) {
                    return Err(SchedulerError::Deposed(rival));
                }
                let token = self.token();
                self.replies.insert(token, reply.to_string());
                self.step(Input::Heartbeat { token, heartbeat: Box::new(heartbeat) });
            }
            Err(error) => {
                tracing::warn!(%error, "a heartbeat cannot be read");
                let (reason, by) = (RefusedReason::BadRequest, Some(self.identity.reign()));
                let answer = HeartbeatAnswer::Refused { reason, detail: error.to_string(), by };
                let refusal = HeartbeatReply { v: VERSION, answer };
                self.publish(reply.to_string(), encode(&refusal)).await;
            }
        }
        Ok(())
    }

    /// A scheduler of this cell's name is here, perhaps ourselves.
    pub(super) async fn on_beacon(
        &mut self,
        message: async_nats::Message,
    ) -> Result<(), SchedulerError> {
        let Ok(beacon) = decode::<SchedulerBeacon>(&message.payload) else {
            return Ok(());
        };
        match self.identity.rival(&beacon) {
            Some(rival @ Rival::Later { .. }) => return Err(SchedulerError::Deposed(rival)),
            Some(rival @ Rival::Twin { scheduler, .. }) if scheduler < self.identity.scheduler => {
                return Err(SchedulerError::Deposed(rival));
            }
            // It stops when it hears of us.
            Some(Rival::Twin { .. } | Rival::Former) => self.announce().await,
            Some(rival @ Rival::Foreign { cell }) if self.stranger != Some(cell) => {
                self.stranger = Some(cell);
                tracing::warn!("{rival}");
                let event = self.event("scheduler.foreign", rival.to_string());
                self.events.tell(event);
            }
            None | Some(Rival::Foreign { .. }) => {}
        }
        Ok(())
    }
}
