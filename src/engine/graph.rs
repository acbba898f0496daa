//! Which jobs may start: counts of unmet needs, and who waits for whom. Linear in jobs and needs.

use crate::plan::spec::PlannedJob;

#[derive(Debug)]
pub(super) struct Graph {
    unmet: Vec<usize>,
    dependants: Vec<Vec<usize>>,
}

impl Graph {
    pub(super) fn new(jobs: &[PlannedJob]) -> Self {
        let mut dependants = vec![Vec::new(); jobs.len()];
        for (index, job) in jobs.iter().enumerate() {
            for need in &job.needs {
                dependants[*need].push(index);
            }
        }
        Self { unmet: jobs.iter().map(|job| job.needs.len()).collect(), dependants }
    }

    /// Jobs that need nothing.
    pub(super) fn roots(&self) -> Vec<usize> {
        (0..self.unmet.len()).filter(|index| self.unmet[*index] == 0).collect()
    }

    pub(super) fn dependants(&self, job: usize) -> &[usize] {
        &self.dependants[job]
    }

    /// Notes that a job passed; returns those whose last unmet need it was.
    pub(super) fn passed(&mut self, job: usize) -> Vec<usize> {
        let mut ready = Vec::new();
        for dependant in &self.dependants[job] {
            self.unmet[*dependant] -= 1;
            if self.unmet[*dependant] == 0 {
                ready.push(*dependant);
            }
        }
        ready
    }
}
