"""What displaced patches do to pictures: variations of one factor, rendered by real ranks, against one rank's."""
