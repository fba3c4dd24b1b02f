//! `--device`, `--precision` and `--threads`: where tensors live, what the frozen path multiplies, how many cores may work.

use candle_core::Device;

use topwork_kernels::frozen::Precision;

use crate::{Error, Result};

/// Where to compute, and with what the frozen path does: a device that knows how precise it should be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where tensors live.
    pub device: Device,
    /// What matrix products of the frozen path multiply; f32 unless the device is the CPU.
    pub precision: Precision,
}

impl Default for Place {
    fn default() -> Self {
        Device::Cpu.into()
    }
}

impl From<Device> for Place {
    fn from(device: Device) -> Self {
        Self { device, precision: Precision::F32 }
    }
}

impl std::ops::Deref for Place {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

impl Place {
    /// Understands the values of `--device` and `--precision`.
    ///
    /// # Errors
    /// As [`parse`]; and when the precision is unknown, or the device has no instructions for it.
    pub fn parse(device: Option<&str>, precision: Option<&str>) -> Result<Self> {
        let device = parse(device.unwrap_or("cpu"))?;
        let Some(name) = precision else { return Ok(device.into()) };
        let subject = format!("--precision {name}");
        let known = [Precision::F32, Precision::Bf16];
        let precision = known.into_iter().find(|known| known.name() == name);
        let precision = precision.ok_or_else(|| Error::input(&subject, "no such precision", "use f32 or bf16"))?;
        if precision != Precision::F32 && !device.is_cpu() {
            return Err(Error::input(&subject, "it is for the CPU alone", "leave it out on other devices"));
        }
        if !precision.available() {
            let reason = "this processor has no instructions for it (AVX-512 BF16)";
            return Err(Error::input(&subject, reason, "leave it out"));
        }
        Ok(Self { device, precision })
    }
}

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
/// clear every page before it gives it out again, which costs more than most operations. The first half of the machine's
/// memory that is used is asked for in large pages, so that finding a page costs little as well. Call it once, first thing
/// in a process that trains; elsewhere than with glibc it does nothing.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt and sysconf take any values; madvise is given whole pages of what malloc gave, and nobody else has
    // them until they are freed.
    unsafe {
        const LARGE: usize = 2 << 20;
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 16 << 20);
        // With one, threads wait for each other at every small piece, of which tokenizers ask for many; each keeps what is freed.
        libc::mallopt(libc::M_ARENA_MAX, 4);
        let pages = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| libc::sysconf(name).max(0) as usize);
        let half = pages[0].saturating_mul(pages[1]) / 2 / LARGE * LARGE;
        let start = libc::malloc(half);
        if !start.is_null() {
            let skipped = (start as usize).next_multiple_of(LARGE) - start as usize;
            if skipped + LARGE <= half {
                libc::madvise(start.byte_add(skipped), (half - skipped) / LARGE * LARGE, libc::MADV_HUGEPAGE);
            }
            libc::free(start);
        }
    }
}

/// Bounds the threads of all parallel work, and keeps candle from starting a pool of its own, whose threads spin while
/// they wait and would take the cores from ours. Call it once, first thing in a process.
///
/// # Errors
/// When `threads` is 0, or `TOPWORK_INSTRUCTIONS` names no instruction set of this processor.
pub fn set_threads(threads: Option<usize>) -> Result<()> {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: called before any other thread exists.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    topwork_kernels::check_instructions().map_err(|no| {
        let subject = format!("TOPWORK_INSTRUCTIONS={}", no.asked);
        let remedy = format!("use one of {}, or unset it", no.known.join(", "));
        Error::input(subject, "this processor has no such instruction set", remedy)
    })?;
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 {
        return Err(Error::input("--threads 0", "at least one thread is needed", "use --threads 1 or more"));
    }
    // A second call finds the pool built: the first one decided.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    Ok(())
}
