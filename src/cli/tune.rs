use clap::Args;
#[derive(Debug, Args)]
pub struct TuneArguments {}
pub fn run(_: &TuneArguments) -> Result<(), super::Failure> {
    Ok(())
}
