//! From a cold node to a program that has run: lazily, by the image's original digest.

use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{Result, ensure};
use e2e::{Cri, Snapshotter, Stargz};

use super::{Row, turns};
use crate::figure::{Bar, Figure, Unit};
use crate::images::Images;
use crate::measured::Busy;
use crate::node::{Cold, ORDINARY, World, cold_seconds};
use crate::report::Report;
use crate::samples::Samples;
use crate::wire::{Gauge, Wire};

/// What is run: a program that loads a good part of the standard library.
const PROGRAM: [&str; 3] = ["python3", "-c", "import ssl,json,email,http.client; print('ready')"];
/// Pull and run together.
const START: Bar = Bar::AtMost(1.5);
const PULLS: usize = 20;
/// All of them at once by one alone.
const SLOWER: Bar = Bar::AtMost(1.5);

pub(super) fn run(images: &Images, quick: bool, report: &mut Report) -> Result<()> {
    let world = World::start(&images.python())?;
    start(&world, quick, report)?;
    pulls(&world, quick, report)
}

fn start(world: &World, quick: bool, report: &mut Report) -> Result<()> {
    let (mut pull, mut program, mut both, mut fetched) =
        (Samples::new(), Samples::new(), Samples::new(), Samples::new());
    let (mut theirs, mut theirs_fetched) = (Samples::new(), Samples::new());
    let view = world.estargz()?;
    for _ in 0..turns(quick) {
        let wire = Wire::start(world.at(), Gauge::FAR)?;
        let (pulled, ran) = pull_and_run(&wire, Snapshotter::NAME, &world.reference(wire.at()))?;
        pull.push(pulled);
        program.push(ran);
        both.push(pulled + ran);
        fetched.push(wire.down_bytes() as f64 / f64::from(1 << 20));
        let wire = Wire::start(world.at(), Gauge::FAR)?;
        let (pulled, ran) = pull_and_run(&wire, Stargz::NAME, &world.reference_to(wire.at(), &view))?;
        theirs.push(pulled + ran);
        theirs_fetched.push(wire.down_bytes() as f64 / f64::from(1 << 20));
    }
    let (mut ordinary, mut after) = (Samples::new(), Samples::new());
    let wire = Wire::start(world.at(), Gauge::FAR)?;
    let (node, reference) = (Cold::start(wire.at(), "")?, world.reference(wire.at()));
    ordinary.push(cold_seconds(|| node.containerd.pull_with(ORDINARY, &reference).map(drop))?);
    after.push(cold_seconds(|| node.containerd.run_with(ORDINARY, &reference, &PROGRAM).map(drop))?);
    let figure = Figure::new("python, 20 ms and 500 Mbit/s: pull and run", Unit::Seconds, both).bar(START);
    let figure = figure.part("pull", Unit::Seconds, pull).part("run", Unit::Seconds, program);
    let figure = figure.part("from the proxy", Unit::Mebibytes, fetched);
    let figure = figure.part("stargz 0.19", Unit::Seconds, theirs);
    let figure = figure.part("from the proxy", Unit::Mebibytes, theirs_fetched);
    let figure = figure.part("an ordinary pull", Unit::Seconds, ordinary);
    report.add(Row::Lazy, figure.part("and run", Unit::Seconds, after));
    Ok(())
}

/// Pulls an image to a cold node and runs the program, with a snapshotter of that node, and returns the seconds that both took.
fn pull_and_run(wire: &Wire, snapshotter: &str, reference: &str) -> Result<(f64, f64)> {
    let node = Cold::start(wire.at(), "")?;
    let pulled = cold_seconds(|| node.containerd.pull_lazily(snapshotter, reference).map(drop))?;
    let begin = Instant::now();
    let said = node.containerd.run_with(snapshotter, reference, &PROGRAM)?;
    let ran = begin.elapsed().as_secs_f64();
    ensure!(said == "ready", "{said}");
    Ok((pulled, ran))
}

fn pulls(world: &World, quick: bool, report: &mut Report) -> Result<()> {
    let (mut one, mut many, mut known) = (Pulls::default(), Pulls::default(), Pulls::default());
    for _ in 0..turns(quick) {
        for (count, pulls) in [(1, &mut one), (PULLS, &mut many)] {
            let wire = Wire::start(world.at(), Gauge::FAR)?;
            let (node, reference) = (Cold::start(wire.at(), "")?, world.reference(wire.at()));
            let cri = Cri::start(&node.snapshotter, "unused:1")?;
            pulls.add(&cri, count, &reference)?;
            if count == PULLS {
                // Nothing is left to do for anybody but the clients and containerd.
                known.add(&cri, count, &reference)?;
            }
            e2e::run(cri.crictl().args(["rmi", &reference]))?;
        }
    }
    let slower = many.all.ratios(&one.all);
    let figure = Figure::new(format!("python: {PULLS} crictl pull at once by one"), Unit::Ratio, slower).bar(SLOWER);
    let figure = figure.part("20 at once", Unit::Seconds, many.all).part("one", Unit::Seconds, one.all);
    let figure = figure.part("first of 20 reaches containerd", Unit::Seconds, many.first);
    let figure = figure.part("last", Unit::Seconds, many.last).part("the one", Unit::Seconds, one.first);
    let figure = figure.part("first answer", Unit::Seconds, many.answered);
    let figure = figure.part("20 at once, all here", Unit::Seconds, known.all);
    let figure = figure.part("CPU of the 20 clients", Unit::Seconds, many.clients);
    report.add(Row::Lazy, figure.part("CPU of the machine", Unit::Seconds, many.machine));
    Ok(())
}

/// What pulls at once took, in seconds from their start on.
#[derive(Debug)]
struct Pulls {
    all: Samples,
    /// When containerd heard of the first, and of the last, and answered the first.
    first: Samples,
    last: Samples,
    answered: Samples,
    /// CPU.
    clients: Samples,
    machine: Samples,
}

impl Default for Pulls {
    fn default() -> Self {
        let [all, first, last, answered, clients, machine] = [const { Samples::new() }; 6];
        Self { all, first, last, answered, clients, machine }
    }
}

impl Pulls {
    fn add(&mut self, cri: &Cri, count: usize, reference: &str) -> Result<()> {
        let before = Busy::now()?;
        let mut begin = SystemTime::now();
        let took = cold_seconds(|| {
            begin = SystemTime::now();
            at_once(count, cri.crictl().args(["pull", reference]))
        })?;
        let after = Busy::now()?;
        let (asked, answered) = cri.pulls_since(begin)?;
        ensure!(asked.len() == count && answered.len() == count, "{} asked, {} answered", asked.len(), answered.len());
        self.all.push(took);
        self.first.push(asked[0].as_secs_f64());
        self.last.push(asked[count - 1].as_secs_f64());
        self.answered.push(answered[0].as_secs_f64());
        self.clients.push(after.children - before.children);
        self.machine.push(after.machine - before.machine);
        Ok(())
    }
}

/// Runs a command so many times at once. Nothing is around it: what starts a client takes as long as the client.
fn at_once(count: usize, command: &mut Command) -> Result<()> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let children = (0..count).map(|_| command.spawn()).collect::<Result<Vec<_>, _>>()?;
    for child in children {
        let ended = child.wait_with_output()?;
        ensure!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    Ok(())
}
