FROM BASE
ADD arc.tar.gz /u/
ADD arc.tar.xz /v/
ADD arc.tar.gz /u2
ADD a.txt arc.tar.gz /m/
COPY arc.tar.gz /nounpack/
ADD arc.tar.bz2 arc.tar /more/
