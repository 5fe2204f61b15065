//! What there is to do: five jobs, some after others, on two hosts of three databases each.

use std::sync::{Arc, OnceLock};

use bistro_common::config::{Config, NodeOrder, parse};
use bistro_core::{Forest, ForestBuilder};

pub const HOST_SLOTS: usize = 2;
pub const WORKER_SLOTS: usize = 2;

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {"levels": ["host", "db"], "node_sources": [{"source": "empty"}]},
    "resources": {
      "host": {"slot": {"limit": 2, "default": 1}},
      "worker": {"cpu": {"limit": 2, "default": 1}}
    },
    "backoff": [1, "repeat"]
  },
  "bistro_job->a": {"owner": "sim"},
  "bistro_job->b": {"owner": "sim", "priority": 2},
  "bistro_job->c": {"owner": "sim", "depends_on": ["a"]},
  "bistro_job->d": {"owner": "sim", "depends_on": ["b"]},
  "bistro_job->e": {"owner": "sim", "priority": 0.5}
}"#;

/// Every run has the same.
pub fn plan() -> (Arc<Config>, Arc<Forest>) {
    static PLAN: OnceLock<(Arc<Config>, Arc<Forest>)> = OnceLock::new();
    PLAN.get_or_init(|| {
        let config = parse(CONFIG).config.expect("the config is sound");
        (Arc::new(config), Arc::new(forest()))
    })
    .clone()
}

fn forest() -> Forest {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    let mut add = |level, node: &str, parent: &str| {
        builder.add(level, node, parent, true).expect("nodes have different names");
    };
    for host in ["h0", "h1"] {
        add(1, host, "root");
        for db in ["a", "b", "c"] {
            add(2, &format!("{host}{db}"), host);
        }
    }
    builder.build(NodeOrder::Random).expect("every parent is there")
}

/// The host of a database.
pub fn host_of(node: &str) -> &str {
    &node[..2]
}
