//! GPUs: from NVIDIA's library (NVML) where there is one, else from the files of its driver.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::path::Path;

/// What the driver's packages install; the name without a version is for those who compile.
const LIBRARY: &str = "libnvidia-ml.so.1";

pub fn models() -> Vec<String> {
    match of_library(Path::new(LIBRARY)) {
        Ok(models) => models,
        Err(error) => {
            tracing::debug!(%error, "NVML knows no GPUs");
            of_driver(Path::new("/proc/driver/nvidia/gpus"))
        }
    }
}

/// A card that does not say its name is none that a task should get.
fn of_library(library: &Path) -> Result<Vec<String>, NvmlError> {
    let nvml = Nvml::builder().lib_path(library.as_os_str()).init()?;
    let name = |card| nvml.device_by_index(card).and_then(|device| device.name());
    let mut models: Vec<String> = (0..nvml.device_count()?).flat_map(name).collect();
    models.sort_unstable();
    Ok(models)
}

/// The driver has a directory per card, with its model among other things.
fn of_driver(directory: &Path) -> Vec<String> {
    let Ok(cards) = std::fs::read_dir(directory) else {
        // No driver, no cards.
        return Vec::new();
    };
    let files = cards.flatten().map(|card| card.path().join("information"));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let mut models: Vec<String> =
        texts.filter_map(|text| model(&text).map(str::to_owned)).collect();
    models.sort_unstable();
    models
}

fn model(information: &str) -> Option<&str> {
    information.lines().find_map(|line| line.strip_prefix("Model:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Three cards, of which one has a fault.
    const LIBRARY_SOURCE: &str = r#"
#include <stdio.h>
static int names[3] = {1, 2, 3};
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &names[index];
    return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    int card = *(int *)device;
    if (card == 3) return 15;
    snprintf(name, length, "%s", card == 1 ? "T4" : "A100");
    return 0;
}
"#;

    #[test]
    fn cards_of_the_library_have_their_models() {
        let directory = tempfile::tempdir().unwrap();
        let (source, library) =
            (directory.path().join("nvml.c"), directory.path().join("libnvidia-ml.so.1"));
        assert!(of_library(&library).is_err(), "there is none");
        std::fs::write(&source, LIBRARY_SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        // Who has none is spared this much.
        let Ok(compiled) = compiler.status() else { return };
        assert!(compiled.success());
        assert_eq!(of_library(&library).unwrap(), ["A100", "T4"]);
    }

    #[test]
    fn each_card_of_the_driver_is_a_gpu() {
        let directory = tempfile::tempdir().unwrap();
        for (card, text) in
            [("0000:01:00.0", "Model: \t A100\nIRQ: 3\n"), ("0000:02:00.0", "Model: T4\n")]
        {
            let card = directory.path().join(card);
            std::fs::create_dir(&card).unwrap();
            std::fs::write(card.join("information"), text).unwrap();
        }
        assert_eq!(of_driver(directory.path()), ["A100", "T4"]);
        assert_eq!(of_driver(&directory.path().join("nothing")), [""; 0]);
    }
}
