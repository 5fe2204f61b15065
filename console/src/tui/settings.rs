//! How a console is to be: what its command line and its settings file say.

use anyhow::Context;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::Keymap;
use super::list::Query;
use super::state::{State, View};
use super::theme::Theme;
use crate::args::ConsoleArgs;

pub struct Settings {
    pub view: View,
    pub query: Query,
    pub read_only: bool,
    pub max_kbps: u32,
    pub context: Option<String>,
    theme: Theme,
    keymap: Keymap,
    ascii: bool,
}

/// `~/.config/bistro/console.json`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    theme: Option<String>,
    /// By the command's name, see `bistro console --keys`.
    keys: BTreeMap<String, Vec<String>>,
    read_only: bool,
}

impl Settings {
    pub fn new(args: &ConsoleArgs) -> anyhow::Result<Self> {
        let (file, place) = read()?;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let plain_terminal = std::env::var("TERM").is_ok_and(|term| term.starts_with("vt"));
        let default = if no_colour || plain_terminal { "mono" } else { "terminal" };
        // What was asked for by name is wanted, colours or not.
        let of_file = file.theme.as_deref().filter(|_| !no_colour);
        let name = args.theme.as_deref().or(of_file).unwrap_or(default);
        let theme = Theme::named(name).with_context(|| {
            format!("there is no theme {name:?}; there are {}", Theme::NAMES.join(", "))
        })?;
        let keymap = Keymap::new(&file.keys).with_context(|| place.display().to_string())?;
        Ok(Self {
            view: args.view,
            query: Query { filter: args.filter.clone(), sort: args.sort.clone() },
            read_only: args.read_only || file.read_only,
            max_kbps: args.max_kbps,
            context: None,
            theme,
            keymap,
            ascii: !is_utf8(),
        })
    }

    pub fn keymap(&self) -> &Keymap {
        &self.keymap
    }

    pub(super) fn into_state(self, cell: &str) -> State {
        let mut state = State::new(cell.to_owned(), self.theme, self.keymap);
        (state.view, state.read_only, state.ascii) = (self.view, self.read_only, self.ascii);
        state.context = self.context;
        match self.view {
            View::Jobs => state.jobs.query = self.query,
            View::Nodes => state.nodes.query = self.query,
            View::Workers => state.workers.query = self.query,
            View::Tasks => state.tasks.query = self.query,
            View::Events => state.events.filter = self.query.filter,
            View::Logs => {
                let regex = self.query.filter;
                state.logs.query.regex = (!regex.is_empty()).then_some(regex);
            }
            View::Grid | View::Health | View::Job | View::Task => {}
        }
        state
    }
}

fn read() -> anyhow::Result<(File, PathBuf)> {
    let Some(path) = crate::client::contexts::directory().map(|d| d.join("console.json")) else {
        return Ok((File::default(), PathBuf::new()));
    };
    match std::fs::read(&path) {
        Ok(bytes) => {
            let file = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Ok((file, path))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((File::default(), path)),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Does the terminal's locale know more than ASCII?
fn is_utf8() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let set = names.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    set.is_some_and(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
