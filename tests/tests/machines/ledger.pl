#!/usr/bin/perl
# A small database: every record is appended to a log and durable before its number becomes the last one in the index.
#   ledger write FOLDER COUNT-FILE     goes on for ever
#   ledger check FOLDER RESULT-FILE    says what a machine that starts finds: records, and the last number of the index
use strict;
use IO::Handle;

my ($what, $folder, $result) = @ARGV;
my $len = 64;

sub record { my $n = shift; sprintf("%010d %052x\n", $n, ($n * 2654435761) % 4294967296) }

sub slurp { my $path = shift; open(my $file, '<', $path) or return ''; local $/; my $text = <$file>; defined $text ? $text : '' }

sub durable { my ($path, $mode, $text) = @_; open(my $file, $mode, $path) or die "$path: $!"; print $file $text; $file->flush; $file->sync or die "$path: $!"; close $file }

sub count {
    my $log = slurp("$folder/log");
    my $n = 0;
    while (($n + 1) * $len <= length $log) {
        last if substr($log, $n * $len, $len) ne record($n + 1);
        $n++;
    }
    # Bytes behind the last good record are at most one torn one.
    return ($n, length($log) - $n * $len);
}

my ($n, $rest) = count();
if ($what eq 'check') {
    my $index = 0 + (slurp("$folder/index") || 0);
    durable($result, '>', "records $n rest $rest index $index\n");
    exit 0;
}
truncate("$folder/log", $n * $len) if $rest;
while (1) {
    $n++;
    durable("$folder/log", '>>', record($n));
    # Overwritten in place: never empty.
    durable("$folder/index", -e "$folder/index" ? '+<' : '>', sprintf("%010d", $n));
    # Replaced: whoever reads it finds a number at any time.
    open(my $count, '>', "$result.new"); print $count "$n\n"; close $count;
    rename("$result.new", $result);
    select(undef, undef, undef, 0.1);
}
