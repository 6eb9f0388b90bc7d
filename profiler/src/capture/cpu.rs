//! On-CPU sampling: what interrupts the CPUs, and how often.

use aya::programs::PerfEvent;
use aya::programs::perf_event::{
    HardwareEvent, PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::util::online_cpus;

use super::Error;

/// What drives samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// Hardware CPU cycles: precise also where interrupts are off. Needs a PMU.
    Cycles,
    /// The kernel's timer for each CPU.
    CpuClock,
}

/// How CPUs are sampled.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) clock: Clock,
    pub(super) frequency_hz: u64,
    pub(super) cpus: Vec<u32>,
}

impl Sampling {
    /// The best clock that this host has.
    pub(super) fn best(frequency_hz: u64) -> Result<Self, Error> {
        let cpus = online_cpus().map_err(|(_, error)| Error::Cpus(error))?;
        let clock =
            if has_cycles(cpus.first().copied().unwrap_or(0)) { Clock::Cycles } else { Clock::CpuClock };
        Ok(Self { clock, frequency_hz, cpus })
    }

    /// The name that reports use.
    pub(super) fn event_name(&self) -> &'static str {
        match self.clock {
            Clock::Cycles => "cycles",
            Clock::CpuClock => "cpu-clock",
        }
    }

    /// CPU time that a sample stands for. With `cycles` the kernel aims at this rate, so it is an estimate.
    pub(super) fn period_ns(&self) -> u64 {
        1_000_000_000 / self.frequency_hz
    }

    /// Room for half a second of samples of usual size on all CPUs: a power of two of at least 1 MiB.
    pub(super) fn ring_bytes(&self) -> u32 {
        const BYTES_PER_SAMPLE: u64 = 800;
        const MIN: u64 = 1 << 20;
        const MAX: u64 = 64 << 20;
        let bytes = self.cpus.len() as u64 * self.frequency_hz * BYTES_PER_SAMPLE / 2;
        bytes.clamp(MIN, MAX).next_power_of_two() as u32
    }

    pub(super) fn attach(&self, program: &mut PerfEvent) -> Result<(), Error> {
        let (config, policy) = match self.clock {
            Clock::Cycles => (
                PerfEventConfig::Hardware(HardwareEvent::CpuCycles),
                SamplePolicy::Frequency(self.frequency_hz),
            ),
            Clock::CpuClock => {
                (PerfEventConfig::Software(SoftwareEvent::CpuClock), SamplePolicy::Period(self.period_ns()))
            }
        };
        for &cpu in &self.cpus {
            program.attach(config, PerfEventScope::AllProcessesOneCpu { cpu }, policy, false)?;
        }
        Ok(())
    }
}

/// Whether the hardware counts cycles: virtual machines often have no PMU.
pub fn has_cycles(cpu: u32) -> bool {
    use perf_event::events::Hardware;
    perf_event::Builder::new(Hardware::CPU_CYCLES)
        .any_pid()
        .one_cpu(cpu as usize)
        .include_kernel()
        .build()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ring grows with CPUs and rate, within its limits.
    #[test]
    fn ring_is_sized_for_the_rate() {
        let sampling = |cpus: u32, frequency_hz| Sampling {
            clock: Clock::CpuClock,
            frequency_hz,
            cpus: (0..cpus).collect(),
        };
        assert_eq!(sampling(2, 99).ring_bytes(), 1 << 20);
        assert_eq!(sampling(64, 999).ring_bytes(), 32 << 20);
        assert_eq!(sampling(512, 10_000).ring_bytes(), 64 << 20);
    }
}
