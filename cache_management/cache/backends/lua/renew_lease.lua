-- Prolong a lease if this owner still holds it. KEYS: the lease. ARGV: owner, milliseconds.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
