//! `--device` and `--threads`: where tensors live and how many cores may work.

use candle_core::Device;

use crate::{Error, Result};

/// Understands `cpu`, `cuda`, `cuda:1`, `metal`.
///
/// # Errors
/// When the name is unknown, this build lacks the device's support, or the machine lacks the device.
pub fn parse(name: &str) -> Result<Device> {
    let subject = format!("--device {name}");
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let number: usize = number.parse().map_err(|_| {
        Error::input(&subject, format!("{number:?} is not a device number"), "write for example cuda:0")
    })?;
    let opened = match kind {
        "cpu" => return Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(number),
        "metal" if cfg!(feature = "metal") => Device::new_metal(number),
        "cuda" | "metal" => {
            return Err(Error::input(
                &subject,
                format!("this binary was built without {kind}"),
                format!("build it with `cargo build --release --features {kind}`, or use --device cpu"),
            ));
        }
        _ => return Err(Error::input(&subject, "no such device", "use cpu, cuda, cuda:N or metal")),
    };
    opened.map_err(|e| Error::input(&subject, e, "check the driver, or use --device cpu"))
}

/// Lets the C library keep the memory that is freed, for the next step's activations: a system that takes it back must
/// clear every page before it gives it out again, which costs more than most operations. Call it once, first thing in a
/// process that trains; elsewhere than with glibc it does nothing.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes any values.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 16 << 20);
    }
}

/// Bounds the threads of all parallel work, and keeps candle from starting a pool of its own, whose threads spin while
/// they wait and would take the cores from ours. Call it once, first thing in a process.
///
/// # Errors
/// When `threads` is 0.
pub fn set_threads(threads: Option<usize>) -> Result<()> {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: called before any other thread exists.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 {
        return Err(Error::input("--threads 0", "at least one thread is needed", "use --threads 1 or more"));
    }
    // A second call finds the pool built: the first one decided.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    Ok(())
}
