//! Bits that rot in the files of a node that was killed: one disk of three, while the others have everything.
//!
//! | file | what happens to it |
//! |---|---|
//! | journal, active segments | a bit flips, or a sector is zero |
//! | indexes, checksums, snapshots, epochs, checkpoints | the same, or it is cut, or gone |
//!
//! Left alone, since an operator has to be asked, which the broker does: the log of the metadata, `meta.properties`,
//! and `partition.metadata`, which say whose the rest is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use odradek_powerloss::random::Random;

const SECTOR: usize = 512;

/// Damages some files. Returns what was done, a line each.
pub fn damage(data_dir: &Path, random: &mut Random) -> io::Result<Vec<String>> {
    let files = files_of(data_dir)?;
    let mut done = Vec::new();
    let wanted = 1 + random.below(3) as usize;
    // Some hold nothing but zeros.
    for _ in 0..20 {
        if files.is_empty() || done.len() == wanted {
            break;
        }
        let file = &files[random.below(files.len() as u64) as usize];
        if let Some(how) = damage_one(file, random)? {
            done.push(format!("{}: {how}", file.strip_prefix(data_dir).unwrap_or(file).display()));
        }
    }
    Ok(done)
}

fn damage_one(file: &Path, random: &mut Random) -> io::Result<Option<String>> {
    let mut bytes = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None), // It was one of those before.
        read => read?,
    };
    let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return Ok(None) };
    let at = random.below(last as u64 + 1) as usize;
    let how = match random.below(6) {
        0 if is_derived(file) => {
            fs::remove_file(file)?;
            return Ok(Some("gone".to_owned()));
        }
        1 if is_derived(file) => {
            bytes.truncate(at);
            format!("cut at byte {at}")
        }
        2 => {
            let sector = at / SECTOR * SECTOR;
            let end = bytes.len().min(sector + SECTOR);
            bytes[sector..end].fill(0);
            format!("zero from byte {sector} to {end}")
        }
        _ => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
    };
    fs::write(file, bytes)?;
    Ok(Some(how))
}

/// It is made again from others where it is missing or wrong.
fn is_derived(file: &Path) -> bool {
    !file.extension().is_some_and(|extension| extension == "log" || extension == "journal")
}

fn files_of(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    const DERIVED: [&str; 4] = ["index", "timeindex", "checksums", "snapshot"];
    let mut files = Vec::new();
    for entry in sorted(data_dir)? {
        let name = name_of(&entry);
        if name.starts_with("recovery-point-checkpoint.") {
            files.push(entry);
        } else if name.starts_with("journal.") && !name.contains("damaged") {
            let within = sorted(&entry)?.into_iter();
            files.extend(within.filter(|file| file.extension().is_some_and(|it| it == "journal")));
        } else if entry.join("partition.metadata").exists() && !name.ends_with("-delete") {
            let within = sorted(&entry)?.into_iter();
            files.extend(within.filter(|file| {
                let extension = file.extension().and_then(|extension| extension.to_str());
                let is_derived = extension.is_some_and(|extension| DERIVED.contains(&extension));
                is_derived || extension == Some("log") || name_of(file) == "leader-epoch-checkpoint"
            }));
        }
    }
    Ok(files)
}

fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    Ok(entries)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_is_asked_for_is_left_alone() {
        let data = tempfile::tempdir().expect("a directory");
        let partition = data.path().join("chaos-0");
        for directory in [&partition, &data.path().join("journal.0"), &data.path().join("metadata")] {
            fs::create_dir(directory).expect("new");
        }
        let kept = ["meta.properties", "metadata/00000000000000000000.log", "chaos-0/partition.metadata"];
        let others = ["chaos-0/00000000000000000000.log", "chaos-0/00000000000000000000.index"];
        let others = others.iter().chain(&["journal.0/0.journal", "recovery-point-checkpoint.0"]);
        for name in kept.iter().chain(others.clone()) {
            fs::write(data.path().join(name), [7; 5000]).expect("written");
        }
        let mut random = Random::new(3);
        for _ in 0..100 {
            damage(data.path(), &mut random).expect("they can be written");
        }
        let is_same = |name: &&str| fs::read(data.path().join(name)).is_ok_and(|bytes| bytes == [7; 5000]);
        assert!(kept.iter().all(is_same));
        assert!(!others.clone().any(is_same));
    }
}
