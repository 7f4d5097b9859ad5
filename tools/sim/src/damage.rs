//! Damage to files at rest, and what it may cost: between two runs of the broker, some sector changes
//! behind everybody's back, or a segment is gone.

use crate::disk::{Disk, SECTOR};
use crate::model::{Damaged, Model};
use crate::random::Random;
use crate::shell::start::is_derived;
use crate::world::World;
use odradek::codec::record_batch::BatchView;
use odradek::log::data_dir::is_checkpoint;

/// Damages one file, of a kind drawn first so that the few journals are hit as often as the many
/// segments.
pub fn inflict(world: &World, disk: &Disk, model: &mut Model, dice: &mut Random) {
    let paths = candidates(disk);
    let kind = dice.below(3);
    let of_kind: Vec<&String> = paths.iter().filter(|path| kind_of(path) == Some(kind)).collect();
    if of_kind.is_empty() {
        return;
    }
    let path = (*dice.pick(&of_kind)).clone();
    let bytes = disk.peek(&path).expect("it was listed");
    if bytes.is_empty() {
        return;
    }
    world.count("damage");
    if kind == 0 && dice.one_in(10) {
        world.count("damage: segment gone");
        world.note(format_args!("{path} is gone"));
        disk.take_away(&path);
    } else {
        let at = aim(&bytes, dice);
        change(world, disk, &path, at, &bytes, dice);
        world.note(format_args!("damage at {at} of {path}"));
    }
    blame(world, model, &path);
}

fn candidates(disk: &Disk) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, size) in disk.names("").unwrap_or_default() {
        match size {
            Some(_) => paths.push(name),
            None => {
                let inside = disk.names(&name).unwrap_or_default();
                paths.extend(inside.into_iter().map(|(file, _)| format!("{name}/{file}")));
            }
        }
    }
    paths
}

fn kind_of(path: &str) -> Option<u64> {
    if path.ends_with(".log") {
        Some(0)
    } else if path.starts_with("journal.") && path.ends_with(".journal") {
        Some(1)
    } else if is_derived(path) {
        Some(2)
    } else {
        None
    }
}

/// A byte, mostly one that means something.
fn aim(bytes: &[u8], dice: &mut Random) -> usize {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let end = if dice.one_in(10) { bytes.len() } else { used };
    dice.below(end as u64) as usize
}

fn change(world: &World, disk: &Disk, path: &str, at: usize, bytes: &[u8], dice: &mut Random) {
    let from = at - at % SECTOR as usize;
    let to = bytes.len().min(from + SECTOR as usize);
    match dice.below(4) {
        0 => {
            world.count("damage: flipped bit");
            let bit = 1u8 << dice.below(8);
            disk.damage(path, |bytes| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bit;
                }
            });
        }
        1 => {
            world.count("damage: zeroed sector");
            disk.damage(path, |bytes| {
                let end = bytes.len();
                bytes[from.min(end)..to.min(end)].fill(0);
            });
        }
        2 => {
            world.count("damage: cut short");
            // Of a segment also between two batches, as if the rest had never been written.
            let at = if dice.one_in(2) { last_boundary(bytes, at) } else { at };
            disk.damage(path, |bytes| bytes.truncate(at));
        }
        _ => {
            world.count("damage: sector of something else");
            // A sector of the same file, as a misdirected write leaves it.
            let sectors = bytes.len() as u64 / SECTOR;
            let source = if sectors > 0 { (dice.below(sectors) * SECTOR) as usize } else { 0 };
            let sector = bytes[source..bytes.len().min(source + to - from)].to_vec();
            disk.damage(path, |bytes| {
                let end = bytes.len().min(from + sector.len());
                if from < end {
                    bytes[from..end].copy_from_slice(&sector[..end - from]);
                }
            });
        }
    }
}

/// Where the last batch ends that ends at or before `at`, in a segment; `at` in other files.
fn last_boundary(bytes: &[u8], at: usize) -> usize {
    let mut end = 0;
    while let Ok((batch, _)) = BatchView::split_first(&bytes[end..])
        && end + batch.size() <= at
    {
        end += batch.size();
    }
    if end > 0 { end } else { at }
}

/// Notes what the damage may cost; whatever else is lost is a finding.
fn blame(world: &World, model: &mut Model, path: &str) {
    match kind_of(path) {
        Some(0) => {
            world.count("damage: of a segment");
            let directory = path.split_once('/').map_or("", |(directory, _)| directory);
            let hit = model.partitions.values_mut().filter(|partition| partition.name == directory);
            hit.for_each(|partition| partition.damaged.segment = true);
        }
        Some(1) => {
            world.count("damage: of a journal");
            model.hit_all(Damaged { journal: true, ..Damaged::default() });
        }
        _ => {
            world.count("damage: of a derived file");
            if is_checkpoint(path) {
                model.hit_all(Damaged { checkpoint: true, ..Damaged::default() });
            }
        }
    }
}
