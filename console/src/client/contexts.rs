//! Contexts: cells by a name of one's own, with where their NATS is.
//!
//! They are in `~/.config/bistro/contexts.json`, for its owner's eyes only, since addresses may
//! have passwords in them.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub nats: String,
    pub cell: String,
}

/// Where settings of a user are, if anywhere.
pub fn directory() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = of("XDG_CONFIG_HOME").or_else(|| Some(of("HOME")?.join(".config")))?;
    Some(config.join("bistro"))
}

fn path() -> anyhow::Result<PathBuf> {
    let directory = directory().context("there is no HOME to keep contexts in")?;
    Ok(directory.join("contexts.json"))
}

/// A file of the user's own, as a whole or not at all: it may be read at the same time.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let directory = path.parent().context("a file is in a directory")?;
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // One that a process of this number has left is in the way.
    let _ = std::fs::remove_file(&new);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path).with_context(|| path.display().to_string())
}

impl Contexts {
    pub fn load() -> anyhow::Result<Self> {
        let Ok(path) = path() else { return Ok(Self::default()) };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} cannot be read", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    pub fn save(&self) -> anyhow::Result<()> {
        let path = path()?;
        write_private(&path, &serde_json::to_vec_pretty(self)?)
    }

    pub fn get(&self, name: &str) -> anyhow::Result<&Context> {
        self.contexts.get(name).with_context(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            match known.is_empty() {
                true => format!("there is no context {name:?}; `bistro context set` makes one"),
                false => format!("there is no context {name:?}; there are {}", known.join(", ")),
            }
        })
    }

    /// The one that was chosen, by name or as the current one.
    pub fn chosen(&self, name: Option<&str>) -> anyhow::Result<Option<(&str, &Context)>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        let context = self.get(name)?;
        let (name, _) = self.contexts.get_key_value(name).context("it was just found")?;
        Ok(Some((name, context)))
    }
}
