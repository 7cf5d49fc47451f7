-- Drop the value of copies, or the whole of them, where they still have the version that was looked at.
-- KEYS: marker, digests, then the records.
-- ARGV: the expected marker, then for each record: its slot, its version, and the stub to leave ("" for nothing).
-- Answers for each record the bytes that it took, 0 where it was another version or gone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local VERSION, MODULUS = 24, 2 ^ 48
local answers = {}
for place = 3, #KEYS do
    local key, at = KEYS[place], 2 + 3 * (place - 3)
    local slot, version, stub = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local bytes = 0
    if redis.pcall('GETRANGE', key, 0, VERSION - 1) == version then
        bytes = redis.call('STRLEN', key)
        if stub ~= '' then
            redis.call('SET', key, stub)
        else
            redis.call('UNLINK', key)
            local mark = tonumber(string.sub(redis.sha1hex(key .. version), 1, 12), 16)
            local sum = redis.pcall('HGET', KEYS[2], slot)
            if type(sum) ~= 'table' then
                sum = (sum and tonumber(sum) or 0) - mark + MODULUS
                redis.call('HSET', KEYS[2], slot, string.format('%.0f', sum % MODULUS))
            end
        end
    end
    answers[place - 2] = bytes
end
return answers
