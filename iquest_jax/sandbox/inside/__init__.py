"""What runs inside the sandbox: the job server, the confinement of each job, the candidate's and the grader's side."""
