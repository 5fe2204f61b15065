//! The commands, one file each.

pub mod doctor;
pub mod events;
pub mod job;
pub mod logs;
mod print;
pub mod read;
pub mod simulate;
pub mod submit;
pub mod validate;
pub mod worker;
