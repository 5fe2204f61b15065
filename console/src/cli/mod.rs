//! The commands, one file each.

pub mod console;
pub mod context;
pub mod doctor;
pub mod events;
pub mod job;
pub mod logs;
mod print;

pub use print::print_line;
pub mod read;
pub mod shell;
pub mod simulate;
pub mod submit;
pub mod validate;
pub mod wait;
pub mod worker;

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::AuditArgs;
use crate::client::Client;
use crate::client::actions::Action;
use crate::text::safe_lines;
use print::say;

/// Does one thing, and says what was done.
pub async fn act(client: &Client, action: Action, audit: AuditArgs) -> anyhow::Result<()> {
    let bar = progress();
    let said = client.act(action, audit.reason, |done, left| {
        bar.set_length(done + left);
        bar.set_position(done);
        true
    });
    let said = said.await;
    bar.finish_and_clear();
    say!("{}", safe_lines(&said?.text))?;
    Ok(())
}

/// Shows itself on a terminal only, from its first news on.
pub fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
    ProgressBar::no_length().with_style(style.expect("a valid template"))
}
