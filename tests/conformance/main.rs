//! `bistro-conformance FILE.json [--only AREA_OR_ID]`: facts about the original, checked against
//! our own code. A line per failing case, then how many passed and failed; exit 1 if any failed.

mod compare;
mod ops;

use anyhow::Context;
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use compare::matches;

#[derive(Parser)]
#[command(name = "bistro-conformance")]
struct Args {
    file: PathBuf,
    /// Only cases of this area, or the one with this id
    #[arg(long, value_name = "AREA_OR_ID")]
    only: Option<String>,
    /// Also say how many passed and failed per op
    #[arg(long)]
    by_op: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let cases: Vec<Value> = serde_json::from_str(&text).context("expected an array of cases")?;
    let (mut passed, mut failed) = (0u32, 0u32);
    let mut by_op: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for case in &cases {
        let wanted = |only: &String| case["area"] == **only || case["id"] == **only;
        if !args.only.as_ref().is_none_or(wanted) {
            continue;
        }
        let op = case["given"]["op"].as_str().unwrap_or_default();
        let of_op = by_op.entry(op.to_owned()).or_default();
        match check(op, case) {
            Ok(()) => (passed, of_op.0) = (passed + 1, of_op.0 + 1),
            Err(came) => {
                (failed, of_op.1) = (failed + 1, of_op.1 + 1);
                println!("{}: expected {}, {came}", case["id"], case["expect"]);
            }
        }
    }
    if args.by_op {
        for (op, (passed, failed)) in by_op {
            println!("{op}: {passed} passed, {failed} failed");
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// An error says what came instead of what was expected.
fn check(op: &str, case: &Value) -> Result<(), String> {
    let Some(answer) = ops::run(op, &case["given"]) else {
        return Err(format!("the op {op:?} is not known"));
    };
    let expect = &case["expect"];
    let refusal_wanted = expect["error"] == true || expect["ok"] == false;
    match answer {
        Err(_) if refusal_wanted => Ok(()),
        Err(error) => Err(format!("refused: {error}")),
        Ok(answer) if refusal_wanted => Err(format!("came {answer}")),
        Ok(answer) => match matches(expect, &answer, case["unordered"] == true) {
            true => Ok(()),
            false => Err(format!("came {answer}")),
        },
    }
}

#[cfg(test)]
mod tests;
