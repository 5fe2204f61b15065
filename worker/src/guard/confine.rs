//! What a process does to itself before it becomes a task's: limits, umask, another user.
//!
//! The guard cannot do it to its children: a hook between fork and exec would make every start
//! dearer, and has rules that are easy to break. So a task that is to be confined is started by way
//! of this program, which costs those tasks one more exec and nobody else anything.

use nix::sys::stat::Mode;
use nix::unistd::{User, chown, initgroups, setgid, setuid};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use bistro_common::protocol::assign::Confinement;

use super::STATUS_PATH;

/// What sets this program to work: `confine JSON -- COMMAND...`; its `main` calls [`run`].
const WORD: &str = "confine";

#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("its confinement cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("the umask {umask:?} is not octal")]
    Umask { umask: String },
    #[error("the limit {name:?} is not known")]
    UnknownLimit { name: String },
    #[error("the limit {name:?} cannot be set to {limit}")]
    Limit {
        name: String,
        limit: u64,
        #[source]
        source: rustix::io::Errno,
    },
    #[error("there is no user {name:?} on this host")]
    NoUser { name: String },
    #[error("it cannot become the user {name:?}; is the worker root?")]
    User {
        name: String,
        #[source]
        source: nix::errno::Errno,
    },
    #[error("{program:?} cannot be run")]
    Exec {
        program: String,
        #[source]
        source: std::io::Error,
    },
}

/// What goes before a task's own command; nothing if nothing is asked for.
pub fn command(confinement: &Confinement) -> std::io::Result<Vec<String>> {
    if confinement.is_empty() {
        return Ok(Vec::new());
    }
    // Also when the file has been replaced by a newer one.
    let us = format!("/proc/{}/exe", std::process::id());
    Ok(vec![us, WORD.to_owned(), serde_json::to_string(confinement)?, "--".to_owned()])
}

/// Confines this process, and becomes the command. It comes back only if that fails; the task's
/// status says so then.
pub fn run(confinement: &str, command: &[String]) -> ExitCode {
    let Err(error) = become_command(confinement, command);
    let mut text = format!("Failed to start task: {error}");
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&format!(": {source}"));
    }
    eprintln!("error: {text}");
    let status = json!({"result": "error_backoff", "data": {"exception": text}});
    if let Err(error) = std::fs::write(STATUS_PATH, status.to_string()) {
        eprintln!("error: the status cannot be written: {error}");
    }
    ExitCode::FAILURE
}

fn become_command(
    confinement: &str,
    command: &[String],
) -> Result<std::convert::Infallible, ConfineError> {
    let Confinement { user, umask, rlimits } = serde_json::from_str(confinement)?;
    let (program, args) = command.split_first().expect("the guard gives a command");
    let mut command = Command::new(program);
    command.args(args);
    let user = user.map(|name| find_user(&name).map(|user| (name, user))).transpose()?;
    if let Some(umask) = umask {
        let bits = u32::from_str_radix(&umask, 8).map_err(|_| ConfineError::Umask { umask })?;
        nix::sys::stat::umask(Mode::from_bits_truncate(bits));
    }
    for (name, limit) in rlimits {
        limit_to(&name, limit)?;
    }
    if let Some((name, user)) = user {
        command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
        become_user(&user).map_err(|source| ConfineError::User { name, source })?;
    }
    let source = command.exec();
    Err(ConfineError::Exec { program: program.clone(), source })
}

fn find_user(name: &str) -> Result<User, ConfineError> {
    let found = User::from_name(name).ok().flatten();
    found.ok_or_else(|| ConfineError::NoUser { name: name.to_owned() })
}

/// For good.
fn become_user(user: &User) -> nix::Result<()> {
    // Opening a pipe by its path asks whose it is. All of these are the task's own.
    for path in ["/dev/fd/1", "/dev/fd/2", STATUS_PATH, "."] {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| nix::errno::Errno::EINVAL)?;
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)
}

fn limit_to(name: &str, limit: u64) -> Result<(), ConfineError> {
    let resource = match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "memlock" => Resource::Memlock,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "stack" => Resource::Stack,
        _ => return Err(ConfineError::UnknownLimit { name: name.to_owned() }),
    };
    let both = Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(resource, both).map_err(|source| ConfineError::Limit {
        name: name.to_owned(),
        limit,
        source,
    })
}
