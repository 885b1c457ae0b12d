SELECT max(batch), argMax(merged_to, batch), argMax(merged_days, batch), argMax(epoch, batch), argMax(sequence, batch), argMax(event_id, batch),
    argMax(refusal_id, batch), arraySort(groupUniqArrayIf((after, batch), batch > after + 1))
FROM positions
