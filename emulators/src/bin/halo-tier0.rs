//! `halo-tier0`: the sensor as a program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use halo_emulators::edge::logs::{self, LogFormat};
use halo_emulators::edge::secret_file::read_pairing_key;
use halo_emulators::tier0::machine::Capture;
use halo_emulators::tier0::run::{self, Options};
use halo_emulators::tier0::{jpeg, sample, sound, wav};
use halo_receipts::messages::Gesture;

/// Be the glasses: capture sound, pictures and gestures, sign them frame by frame, and show what the phone answers.
///
/// Captures are sent in the order in which they are given. The program ends when the phone has finished.
///
/// Exit codes: 0 the phone finished; 1 something failed; 2 wrong usage.
#[derive(Parser)]
#[command(
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    capture: Option<CaptureArguments>,
    // Not among the captures' flags: given by the environment it would ask for those beside a subcommand.
    /// For tests: shift this program's clock by so many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HALO_CLOCK_OFFSET_SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true,
        global = true
    )]
    clock_offset_seconds: i64,
    /// How logs on standard error look.
    #[arg(long, value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Write media to try the sensor with.
    Sample(SampleArguments),
}

#[derive(Args)]
struct SampleArguments {
    /// Write a wav of two phrases with pauses here.
    #[arg(long, value_name = "FILE", required_unless_present = "image")]
    wav: Option<PathBuf>,
    /// Write a JPEG of 640 x 480 here.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

#[derive(Args)]
struct CaptureArguments {
    /// The phone: what `halo-tier1 serve` listens on.
    #[arg(long, value_name = "ws://HOST:PORT")]
    connect: String,
    /// The key that glasses and phone share, from `halo-tier1 pair`.
    #[arg(long, value_name = "FILE")]
    pairing_key: PathBuf,
    /// Capture what is said in this wav: 16-bit PCM of any rate and number of channels. May be repeated.
    #[arg(long, value_name = "FILE")]
    wav: Vec<PathBuf>,
    /// Capture this JPEG of 640 x 480. May be repeated.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Capture a gesture. May be repeated.
    #[arg(long, value_enum)]
    gesture: Vec<GestureName>,
    /// Flip one byte of the N-th frame of a capture on its way to the phone, once: a test of what happens then.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tamper_frame: Option<u32>,
    /// The charge of the battery; below 20 the sensor asks the phone to slow down.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    battery: u8,
    /// Write the sound that the phone plays here, as a wav.
    #[arg(long, value_name = "FILE")]
    audio_out: Option<PathBuf>,
    /// Remember the highest epoch here, so that an old SESSION_RESET is refused after a restart too.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Give up when the phone cannot be reached for this long.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    give_up_s: u64,
    /// Print one JSON event a line instead of what a wearer sees; `at_ms` is when, in milliseconds since 1970.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum GestureName {
    Tap,
    DoubleTap,
    Swipe,
}

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    match start(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halo-tier0: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(matches: &ArgMatches) -> anyhow::Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    logs::start(arguments.log_format);
    match (arguments.command, arguments.capture) {
        (Some(Command::Sample(files)), _) => write_samples(&files),
        (None, Some(capture)) => {
            let options = Options {
                captures: captures(&capture, matches)?,
                pairing: read_pairing_key(&capture.pairing_key)?,
                connect: capture.connect,
                tamper_frame: capture.tamper_frame,
                battery: capture.battery,
                audio_out: capture.audio_out,
                state: capture.state,
                give_up: Duration::from_secs(capture.give_up_s),
                clock_offset: arguments.clock_offset_seconds,
                json: capture.json,
                out: Box::new(std::io::stdout()),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::select! {
                    outcome = run::run(options) => outcome.map_err(anyhow::Error::from),
                    _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
                }
            })
        }
        (None, None) => anyhow::bail!("nothing to do; see --help"),
    }
}

/// The captures in the order of the command line, whatever their kind.
fn captures(arguments: &CaptureArguments, matches: &ArgMatches) -> anyhow::Result<Vec<Capture>> {
    let mut ordered: Vec<(usize, Vec<Capture>)> = Vec::new();
    let places = |id: &str| matches.indices_of(id).into_iter().flatten();
    for (place, path) in places("wav").zip(&arguments.wav) {
        let file = read(path)?;
        let recording = wav::read(&file).with_context(|| path.display().to_string())?;
        let found = sound::captures(&recording, &sound::VoiceDetection::default());
        anyhow::ensure!(!found.is_empty(), "{}: nobody speaks in it", path.display());
        ordered.push((place, found.into_iter().map(Capture::Audio).collect()));
    }
    for (place, path) in places("image").zip(&arguments.image) {
        let file = read(path)?;
        jpeg::check(&file).with_context(|| path.display().to_string())?;
        ordered.push((place, vec![Capture::Image(file)]));
    }
    for (place, gesture) in places("gesture").zip(&arguments.gesture) {
        let gesture = match gesture {
            GestureName::Tap => Gesture::Tap,
            GestureName::DoubleTap => Gesture::DoubleTap,
            GestureName::Swipe => Gesture::Swipe,
        };
        ordered.push((place, vec![Capture::Gesture(gesture)]));
    }
    ordered.sort_by_key(|(place, _)| *place);
    Ok(ordered
        .into_iter()
        .flat_map(|(_, captures)| captures)
        .collect())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn write_samples(files: &SampleArguments) -> anyhow::Result<()> {
    let write = |path: &PathBuf, content: Vec<u8>| {
        std::fs::write(path, content).with_context(|| path.display().to_string())
    };
    if let Some(path) = &files.wav {
        write(path, sample::speech())?;
    }
    if let Some(path) = &files.image {
        write(path, sample::picture())?;
    }
    Ok(())
}
