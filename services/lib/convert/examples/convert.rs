//! Converts a file and prints what it cost: `convert IN OUT [WORKERS [LEVEL [CHUNK]]]`.
#![expect(clippy::print_stdout, reason = "it is a tool")]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use convert::{Cancel, Converted, Limits, Outputs, Pool, Profile, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (Some(input), Some(output)) = (args.get(1), args.get(2)) else { return Err("IN OUT".into()) };
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |text| text.parse());
    let source = File::open(input)?;
    let open = |path: &str| File::options().read(true).write(true).create(true).truncate(true).open(path);
    let (mut twin, mut toc) = (open(output)?, open(&format!("{output}.toc"))?);
    let scratch = Path::new(output).parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let pool = Pool::new(number(3, 2)?, 10)?;
    let profile = Profile { level: u8::try_from(number(4, 5)?)?, chunk_size: u32::try_from(number(5, 1 << 20)?)? };
    let start = Instant::now();
    let out = Outputs { twin: &mut twin, toc: &mut toc, scratch };
    let converted = convert(&source, out, &profile, &Limits::default(), &pool, &Cancel::default(), &|_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let (kind, twin) = match converted {
        Converted::Twin(twin) => ("twin", twin),
        Converted::OwnTwin(twin) => ("own twin", twin),
    };
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let megabytes = twin.source_plain_size as f64 / 1e6;
    println!("{kind} {} toc {}", twin.digest, twin.toc_digest);
    println!("{seconds:.2} s, {:.0} MB/s, {:.4} of the source, {peak}", megabytes / seconds, {
        twin.size as f64 / source.metadata()?.len().max(1) as f64
    });
    println!("{twin:?}");
    Ok(())
}
