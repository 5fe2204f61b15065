//! What is assumed of tasks and workers.

use serde::Deserialize;
use std::collections::BTreeMap;

use bistro_common::protocol::heartbeat::Capacity;
use bistro_core::rng::Rng;

/// How long tasks take, and how often they fail: for all jobs, and by job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskModel {
    #[serde(default)]
    pub default: OfTasks,
    #[serde(default)]
    pub jobs: BTreeMap<String, OfTasks>,
}

impl TaskModel {
    /// Rates are from 0 to 1, and durations finite and not negative.
    pub fn check(&self) -> Result<(), String> {
        for of in self.jobs.values().chain([&self.default]) {
            if !(0.0..=1.0).contains(&of.failure_rate) {
                return Err(format!("a failure rate is from 0 to 1, not {}", of.failure_rate));
            }
            let sound = |seconds: &f64| seconds.is_finite() && *seconds >= 0.0;
            let all_sound = match &of.duration_sec {
                Duration::Fixed(seconds) | Duration::Drawn(Drawn::Exponential(seconds)) => {
                    sound(seconds)
                }
                Duration::Drawn(Drawn::Uniform(from, to)) => sound(from) && sound(to),
                Duration::Drawn(Drawn::List(list)) => !list.is_empty() && list.iter().all(sound),
            };
            if !all_sound {
                return Err("durations are seconds, 0 or more, and a list has some".to_owned());
            }
        }
        Ok(())
    }

    pub fn of(&self, job: &str) -> &OfTasks {
        self.jobs.get(job).unwrap_or(&self.default)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfTasks {
    pub duration_sec: Duration,
    /// From 0, never, to 1, always: then a task ends with `error_backoff`.
    #[serde(default)]
    pub failure_rate: f64,
}

impl Default for OfTasks {
    fn default() -> Self {
        Self { duration_sec: Duration::Fixed(60.0), failure_rate: 0.0 }
    }
}

/// `5`, `{"uniform": [0, 10]}`, `{"exponential": 5}` (its mean) or `{"list": [1, 2, 3]}`, whose
/// items are taken in turn.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Duration {
    Fixed(f64),
    Drawn(Drawn),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drawn {
    Uniform(f64, f64),
    Exponential(f64),
    List(Vec<f64>),
}

/// The longest task: ten years.
const SECONDS_MAX: f64 = 315_360_000.0;

impl Duration {
    /// Milliseconds; `taken` counts how many have been drawn before.
    pub fn draw_ms(&self, taken: usize, rng: &mut Rng) -> u64 {
        let seconds = match self {
            Self::Fixed(seconds) => *seconds,
            Self::Drawn(Drawn::Uniform(from, to)) => from + (to - from) * rng.unit(),
            // 1 - unit is never 0, whose logarithm is infinite.
            Self::Drawn(Drawn::Exponential(mean)) => -mean * (1.0 - rng.unit()).ln(),
            Self::Drawn(Drawn::List(list)) => {
                list.get(taken % list.len().max(1)).copied().unwrap_or(0.0)
            }
        };
        (seconds.clamp(0.0, SECONDS_MAX) * 1_000.0) as u64
    }
}

/// Some workers that are alike. What they do not say is unknown, and the config's limits hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerGroup {
    #[serde(default = "one")]
    pub count: u32,
    /// All on this host; else each has a host of its own.
    #[serde(default)]
    pub host: Option<String>,
    /// Names are this and a number.
    #[serde(default = "worker")]
    pub name: String,
    #[serde(default)]
    pub cpu_cores: u32,
    #[serde(default)]
    pub ram_mb: u64,
    #[serde(default)]
    pub gpus: Vec<String>,
    #[serde(default)]
    pub disk_mb: u64,
}

fn one() -> u32 {
    1
}

fn worker() -> String {
    "worker".to_owned()
}

impl WorkerGroup {
    pub fn alike(count: u32) -> Self {
        let (cpu_cores, ram_mb, disk_mb) = (0, 0, 0);
        Self { count, host: None, name: worker(), cpu_cores, ram_mb, gpus: Vec::new(), disk_mb }
    }

    pub fn capacity(&self) -> Capacity {
        let Self { cpu_cores, ram_mb, disk_mb, .. } = *self;
        Capacity { cpu_cores, ram_mb, gpus: self.gpus.clone(), disk_mb, ..Capacity::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_drawn() {
        let draw = |text: &str| {
            let duration: Duration = serde_json::from_str(text).expect("a duration");
            let mut rng = Rng::new(1);
            (0..1_000).map(|taken| duration.draw_ms(taken, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw("1.5")[..2], [1_500, 1_500]);
        assert_eq!(draw(r#"{"list": [1, 2]}"#)[..3], [1_000, 2_000, 1_000]);
        let mean = |drawn: Vec<u64>| drawn.iter().sum::<u64>() / drawn.len() as u64;
        assert!((4_700..5_300).contains(&mean(draw(r#"{"uniform": [0, 10]}"#))));
        assert!((4_600..5_400).contains(&mean(draw(r#"{"exponential": 5}"#))));
        assert_eq!(draw(r#"{"list": []}"#)[0], 0, "nothing to take takes no time");
        assert_eq!(draw("-1")[0], 0);
    }
}
