//! The text of `.stats` (format: data.md §5.8).

use std::{fmt::Write as _, sync::atomic::Ordering::Relaxed};

use juicefs_core::Errno;

use crate::{
    context::Context,
    metrics::{MetaOp, Metrics, Op},
};

/// The lines of `.stats`, which are put in order at the end.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn put(&mut self, name: &str, value: f64) {
        self.0.push(format!("juicefs_{name} {value}\n"));
    }

    fn count(&mut self, name: &str, value: u64) {
        self.0.push(format!("juicefs_{name} {value}\n"));
    }

    fn histogram(&mut self, name: &str, count: u64, sum: f64) {
        self.count(&format!("{name}_total"), count);
        self.put(&format!("{name}_sum"), sum);
    }
}

/// The text of `.stats` at this moment (format: data.md §5.8).
pub(super) fn render(cx: &Context, open_inodes: usize) -> String {
    let mut lines = Lines::default();
    operations_into(&mut lines, &cx.metrics);
    data_into(&mut lines, cx);
    lines.count("fuse_open_handlers", open_inodes as u64);
    lines.put("uptime", cx.metrics.started.elapsed().as_secs_f64());
    lines.put("cpu_usage", cpu_seconds());
    lines.count("memory", resident_bytes());
    lines.0.sort_unstable();
    lines.0.concat()
}

fn operations_into(lines: &mut Lines, metrics: &Metrics) {
    let (mut count, mut seconds) = (0, 0.0);
    for (op, tally) in Op::ALL.iter().zip(&metrics.ops).filter(|(_, tally)| tally.count() > 0) {
        count += tally.count();
        seconds += tally.seconds();
        lines.count(&format!("fuse_ops_total_{}", op.name()), tally.count());
        lines.put(&format!("fuse_ops_durations_seconds_{}", op.name()), tally.seconds());
    }
    lines.histogram("fuse_ops_durations_histogram_seconds", count, seconds);
    let (mut count, mut seconds, mut changes, mut changing) = (0, 0.0, 0, 0.0);
    for (op, tally) in MetaOp::ALL.iter().zip(&metrics.meta).filter(|(_, tally)| tally.count() > 0) {
        count += tally.count();
        seconds += tally.seconds();
        if op.changes() {
            changes += tally.count();
            changing += tally.seconds();
        }
        lines.count(&format!("meta_ops_total_{}", op.name()), tally.count());
        lines.put(&format!("meta_ops_duration_seconds_{}", op.name()), tally.seconds());
    }
    lines.histogram("meta_ops_durations_histogram_seconds", count, seconds);
    lines.histogram("transaction_durations_histogram_seconds", changes, changing);
    for (number, errors) in metrics.errors.iter().enumerate() {
        let errors = errors.load(Relaxed);
        if errors > 0 {
            let errno = Errno(i32::try_from(number).unwrap_or(libc::EIO));
            let mut name = String::from("fuse_ops_io_errors_");
            match errno.name() {
                Some(symbol) => name.push_str(symbol),
                None => drop(write!(name, "{number}")),
            }
            lines.count(&name, errors);
        }
    }
    let pressure = &metrics.write_pressure;
    lines.count("write_left_behind", pressure.left_behind.load(Relaxed));
    lines.count("write_waits_pending", pressure.pending_full.load(Relaxed));
    lines.count("write_waits_memory", pressure.memory_full.load(Relaxed));
    lines.histogram("fuse_read_size_bytes", metrics.read.count(), metrics.read.sum() as f64);
    lines.histogram("fuse_written_size_bytes", metrics.written.count(), metrics.written.sum() as f64);
    lines.histogram("compact_size_histogram_bytes", metrics.compacted.count(), metrics.compacted.sum() as f64);
}

fn data_into(lines: &mut Lines, cx: &Context) {
    let stats = cx.chunks.stats();
    lines.count("used_buffer_size_bytes", cx.chunks.budget().used_bytes() as u64);
    lines.count("used_read_buffer_size_bytes", cx.ahead_bytes.load(Relaxed) as u64);
    lines.count("store_cache_size_bytes", stats.cached_bytes);
    lines.count("blockcache_blocks", stats.cached_blocks);
    lines.count("blockcache_bytes", stats.cached_bytes);
    lines.count("blockcache_hits", stats.cache_hit.count);
    lines.count("blockcache_hit_bytes", stats.cache_hit.bytes);
    lines.count("blockcache_miss", stats.cache_miss.count);
    lines.count("blockcache_miss_bytes", stats.cache_miss.bytes);
    lines.count("blockcache_writes", stats.cache_write.count);
    lines.count("blockcache_write_bytes", stats.cache_write.bytes);
    lines.count("blockcache_drops", stats.cache_drops);
    lines.count("blockcache_evicts", stats.cache_evicts);
    lines.count("blockcache_disks_normal", stats.disks.normal);
    lines.count("blockcache_disks_unstable", stats.disks.unstable);
    lines.count("blockcache_disks_down", stats.disks.down);
    lines.count("blockcache_disk_errors", stats.disks.failures);
    lines.count("staging_blocks", stats.staging.blocks);
    lines.count("staging_block_bytes", stats.staging.bytes);
    lines.count("staging_block_errors", stats.staging.errors);
    lines.count("staging_oldest_seconds", stats.staging.oldest_secs);
    lines.count("staging_writing_blocks", stats.staging.writing);
    lines.count("staging_write_bytes", stats.staging.written_bytes);
    lines.put("staging_block_delay_seconds", stats.staging.delay_ms as f64 / 1e3);
    lines.histogram("blockcache_read_hist_seconds", stats.cache_hit.count, stats.cache_hit.seconds);
    lines.histogram("blockcache_write_hist_seconds", stats.cache_write.count, stats.cache_write.seconds);
    for (method, op) in [("GET", stats.get), ("PUT", stats.put), ("DELETE", stats.delete)] {
        lines.histogram(&format!("object_request_durations_histogram_seconds_{method}"), op.count, op.seconds);
        if method != "DELETE" {
            lines.count(&format!("object_request_data_bytes_{method}"), op.bytes);
        }
    }
    lines.count("object_request_errors", stats.object_errors);
    lines.count("object_request_uploading", stats.uploading);
    lines.count("object_request_hedges", stats.hedges_sent);
    lines.count("object_request_hedges_won", stats.hedges_won);
}

/// Processor time of this process in seconds.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: getrusage fills the whole structure that it is given when it returns 0.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return 0.0;
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    // SAFETY: sysconf has no memory effects.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}
