//! How a console is to be: what its command line and its settings file say.

use anyhow::Context;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::Keymap;
use super::memory::Memory;
use super::route::Route;
use super::state::State;
use super::theme::Theme;
use crate::args::{ConsoleArgs, QueryArgs};

#[derive(Clone)]
pub struct Settings {
    /// Where to begin; where it was left, if nobody says.
    pub start: Option<Route>,
    /// What it was like then.
    pub memory: Memory,
    /// Other cells by name.
    pub contexts: Vec<String>,
    /// Other cells on the same NATS may be looked for.
    pub finds_cells: bool,
    pub mouse: bool,
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
    mouse: bool,
}

impl Settings {
    pub fn new(args: &ConsoleArgs) -> anyhow::Result<Self> {
        let (file, path) = read()?;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let plain_terminal = std::env::var("TERM").is_ok_and(|term| term.starts_with("vt"));
        let default = if no_colour || plain_terminal { "mono" } else { "terminal" };
        // What was asked for by name is wanted, colours or not.
        let of_file = file.theme.as_deref().filter(|_| !no_colour);
        let name = args.theme.as_deref().or(of_file).unwrap_or(default);
        let theme = Theme::named(name).with_context(|| {
            format!("there is no theme {name:?}; there are {}", Theme::NAMES.join(", "))
        })?;
        let QueryArgs { filter, sort } = &args.query;
        let filtered = !filter.is_empty() || !sort.is_empty();
        let place = args.place.clone().or_else(|| filtered.then(Route::start));
        let start = place.map(|place| place.filtered(filter, sort));
        let keymap = Keymap::new(&file.keys).with_context(|| path.display().to_string())?;
        Ok(Self {
            start,
            memory: Memory::default(),
            contexts: Vec::new(),
            finds_cells: false,
            mouse: args.mouse || file.mouse,
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
        (state.read_only, state.ascii) = (self.read_only, self.ascii);
        (state.context, state.contexts) = (self.context, self.contexts);
        state.cells = self.finds_cells.then(Vec::new);
        self.memory.recall(&mut state);
        if let Some(start) = self.start {
            state.show(start);
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
