//! Writes log lines to standard error, in the form that users of JuiceFS and their tools know (cli.md §1.4).
//!
//! The standard error of a background mount is its log file. So panics and messages of libraries go there too, and no
//! line is lost in a queue when the process dies.

use std::{fmt, io::IsTerminal, os::unix::net::UnixDatagram, path::Path};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{config::args::GlobalArgs, local_time};

/// Starts logging. It is called once, before anything logs; a second call changes nothing.
pub(crate) fn start(global: &GlobalArgs, syslog: bool) {
    let level = level_of(global);
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("juicefs", level);
    let id = match global.log_id.as_deref() {
        None | Some("") => String::new(),
        Some("random") => format!("[{}] ", uuid::Uuid::new_v4()),
        Some(id) => format!("[{id}] "),
    };
    let color = !global.no_color && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LogLine { id: id.clone(), color })
        .with_writer(std::io::stderr)
        .with_filter(targets.clone());
    let syslog = syslog.then(|| Syslog::open(id)).flatten().map(|layer| layer.with_filter(targets));
    // A second start (tests) finds the first subscriber in place, which is as good.
    let _ = tracing_subscriber::registry().with(lines).with(syslog).try_init();
}

fn level_of(global: &GlobalArgs) -> LevelFilter {
    match global.log_level.as_deref() {
        Some("trace") => return LevelFilter::TRACE,
        Some("debug") => return LevelFilter::DEBUG,
        Some("info") => return LevelFilter::INFO,
        Some("warn" | "warning") => return LevelFilter::WARN,
        Some("error" | "fatal" | "panic") => return LevelFilter::ERROR,
        _ => {}
    }
    match global {
        GlobalArgs { trace: true, .. } => LevelFilter::TRACE,
        GlobalArgs { verbose: true, .. } => LevelFilter::DEBUG,
        GlobalArgs { quiet: true, .. } => LevelFilter::WARN,
        _ => LevelFilter::INFO,
    }
}

/// Logs why the command fails. Nothing else logs at the fatal level.
pub(crate) fn fatal(reason: &str) {
    tracing::error!(fatal = true, "{reason}");
}

struct LogLine {
    id: String,
    color: bool,
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let message = Message::of(event);
        let (name, color) = level_name(*event.metadata().level(), message.fatal);
        let (stamp, pid) = (local_time::log_stamp(local_time::now()), std::process::id());
        let level = if self.color { format!("\x1b[1;{color}m{name}\x1b[0m") } else { name.to_owned() };
        writeln!(out, "{}{stamp} juicefs[{pid}] <{level}>: {} [{}]", self.id, message.text, place(event))
    }
}

fn level_name(level: Level, fatal: bool) -> (&'static str, u8) {
    match level {
        _ if fatal => ("FATAL", 31),
        Level::ERROR => ("ERROR", 31),
        Level::WARN => ("WARNING", 33),
        Level::INFO => ("INFO", 34),
        Level::DEBUG => ("DEBUG", 35),
        Level::TRACE => ("TRACE", 35),
    }
}

fn place(event: &Event<'_>) -> String {
    let meta = event.metadata();
    let module = meta.target().rsplit("::").next().unwrap_or_default();
    let file = meta.file().and_then(|file| Path::new(file).file_name()?.to_str()).unwrap_or_default();
    format!("{module}@{file}:{}", meta.line().unwrap_or(0))
}

/// Message and fields of an event in one line.
#[derive(Default)]
struct Message {
    text: String,
    fatal: bool,
}

impl Message {
    fn of(event: &Event<'_>) -> Self {
        let mut message = Self::default();
        event.record(&mut message);
        message
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => {
                self.text.insert_str(0, &format!("{value:?}"));
                Ok(())
            }
            name => write!(self.text, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "fatal" => self.fatal = value,
            _ => self.record_debug(field, &value),
        }
    }
}

/// The local syslog daemon. Lines that it does not take at once are dropped, because nobody waits for it.
struct Syslog {
    socket: UnixDatagram,
    id: String,
}

impl Syslog {
    fn open(id: String) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect("/dev/log").ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, id })
    }
}

impl<S: Subscriber> Layer<S> for Syslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        const USER_FACILITY: u8 = 1 << 3;
        let message = Message::of(event);
        let severity = match *event.metadata().level() {
            _ if message.fatal => 2,
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let (pid, name) = (std::process::id(), level_name(*event.metadata().level(), message.fatal).0);
        let line = format!("<{}>juicefs[{pid}]: {}<{name}>: {}", USER_FACILITY | severity, self.id, message.text);
        let _ = self.socket.send(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_have_the_known_form() {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(LogLine { id: "[x] ".into(), color: false })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(count = 3, name = "a b", "slow {}", "operation");
            fatal("no such thing");
        });
        let text = String::from_utf8(sink.0.lock().expect("one thread").clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let pid = std::process::id();
        assert!(lines[0].starts_with("[x] 2"), "{}", lines[0]);
        assert!(
            lines[0]
                .contains(&format!(" juicefs[{pid}] <WARNING>: slow operation count=3 name=a b [tests@telemetry.rs:")),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains("<FATAL>: no such thing [telemetry@telemetry.rs:"), "{}", lines[1]);
    }

    #[test]
    fn levels() {
        let of = |verbose, quiet, trace, log_level: Option<&str>| {
            let log_level = log_level.map(str::to_owned);
            level_of(&GlobalArgs { verbose, quiet, trace, log_level, ..GlobalArgs::default() })
        };
        assert_eq!(of(false, false, false, None), LevelFilter::INFO);
        assert_eq!(of(true, true, false, None), LevelFilter::DEBUG);
        assert_eq!(of(true, true, true, None), LevelFilter::TRACE);
        assert_eq!(of(true, false, true, Some("error")), LevelFilter::ERROR);
    }
}
