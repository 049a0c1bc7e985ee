"""What `CodeJudge` needs: the tests of a task, and the two processes that run one of them."""
